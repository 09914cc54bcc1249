/** Shows a button for each room in `nav`, with the number of its unread messages, and calls `onShow(room)` with
 *  the room to show: the first one, then that of each click. */
export function listRooms(rooms, nav, onShow) {
  const buttons = new Map(rooms.map((room) => [room, document.createElement("button")]));
  const unread = new Map(rooms.map((room) => [room, 0]));
  let shown;

  const draw = () => {
    for (const [room, button] of buttons) {
      const count = unread.get(room);
      button.textContent = count > 0 ? `${room.name} (${count})` : room.name;
      button.ariaCurrent = String(room === shown);
    }
  };
  const select = (room) => {
    shown = room;
    unread.set(room, 0);
    draw();
    onShow(room);
  };
  for (const [room, button] of buttons) {
    button.onclick = () => select(room);
    // Not of the history that the room has when the page is loaded.
    room.on("change", ({ what, isNew, message }) => {
      if (what !== "message" || !isNew || message.isOwn || room === shown) return;
      unread.set(room, unread.get(room) + 1);
      draw();
    });
  }
  nav.replaceChildren(...buttons.values());
  select(rooms[0]);
}
