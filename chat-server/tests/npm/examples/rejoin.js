import { sentence } from "./words.js";

/** Says why a room was left, with a button that joins it again. */
export function offerToJoin(chat, room, line, button) {
  room.on("change", ({ what }) => {
    if (what !== "state") return;
    const { state, error } = room.snapshot;
    line.textContent = state === "left" ? sentence(error) : "";
    button.hidden = state !== "left";
  });
  // A closed client joins nothing: it connects, and joins its rooms with that.
  button.onclick = () => (chat.state === "closed" ? chat.connect() : room.join());
}
