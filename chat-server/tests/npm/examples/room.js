/** Shows a room, and says hello there. Returns a function that ends it. */
export function openRoom(chat, show) {
  const room = chat.room("general", { history: 50 });
  const end = room.on("change", () => show(room.snapshot));
  room.send("Hello", { data: { mood: "good" } });
  return () => {
    end();
    room.release();
  };
}
