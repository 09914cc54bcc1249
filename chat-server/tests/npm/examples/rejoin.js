/** Shows why a room was left, with a button that joins it again. */
export function offerToJoin(room, button) {
  room.on("change", ({ what }) => {
    if (what !== "state") return;
    const { state, error } = room.snapshot;
    button.hidden = state !== "left";
    if (state !== "left") return;
    const when = error.until ? ` after ${new Date(error.until).toLocaleString()}` : "";
    button.textContent = `${error.message} Try again${when}`;
  });
  button.onclick = () => room.join();
}
