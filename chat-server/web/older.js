// Scrolling back: older messages of a room, one page after the other.

import { byId } from "./dom.js";

/** Messages in a page. */
const PAGE = 100;

/** Asks for the page before a room's oldest message, if there may be one; one at a time.
 *  `toEntry` makes an entry of a message; `onChange` is called when there is something else
 *  to show. */
export async function loadOlder(client, room, toEntry, onChange) {
  const before = room.before;
  if (before === undefined || room.older !== "ready") return;
  room.older = "asked";
  onChange();
  try {
    const { epoch, messages, more } = await client.history(room.id, { before, limit: PAGE });
    // Messages of another sequence do not lie before this one's.
    const isSame = epoch === room.epoch;
    room.older = more && isSame ? "ready" : "none";
    if (isSame && room.before === before) room.prepend(messages.map(toEntry));
  } catch (error) {
    room.older = error.code === "history_disabled" ? "none" : "failed";
  }
  onChange();
}

/** Shows that older messages are loading, or failed to load: then the user may retry. */
export function showOlder({ older }) {
  const button = byId("older");
  button.hidden = older === "ready" || older === "none";
  button.disabled = older === "asked";
  button.textContent =
    older === "failed" ? "Earlier messages did not come. Try again" : "Loading earlier messages …";
}
