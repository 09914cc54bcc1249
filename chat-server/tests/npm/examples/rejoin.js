import { sentence } from "./words.js";

/** Says why a room was left, with a button that joins it again. */
export function offerToJoin(chat, room, line, button) {
  const show = () => {
    const { state, error } = room.snapshot;
    // What ended the client comes after what ended the stay in the room: a ban after a kick.
    line.textContent = state === "left" ? sentence(chat.status.error ?? error) : "";
    button.hidden = state !== "left";
  };
  room.on("change", ({ what }) => what === "state" && show());
  chat.on("state", show);
  // A closed client joins nothing: it connects, and joins its rooms with that.
  button.onclick = () => (chat.state === "closed" ? chat.connect() : room.join());
}
