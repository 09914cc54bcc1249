/** Servers know the key of a message for five minutes: sent again later, it could be there twice. */
const KNOWN_MS = 4.5 * 60_000;

const UNSENT = new Set(["sending", "delayed", "failed"]);

/** Stores the messages of a room that are not sent, and sends those that were stored before the reload.
 *  Returns the texts that are too old for that. `place` names the user. */
export function keepUnsent(room, place, storage = sessionStorage) {
  const stored = JSON.parse(storage.getItem(place) ?? "[]");
  /** By key: when a message was sent first. */
  const times = new Map(stored.map(({ key, at }) => [key, at]));
  const save = ({ what, message: { isOwn } = {} }) => {
    if (what !== "pending" && !isOwn) return;
    const unsent = room.snapshot.messages.filter(({ state }) => UNSENT.has(state));
    const members = ({ key, message, data, at }) => ({ key, message, data, at: times.get(key) ?? at });
    storage.setItem(place, JSON.stringify(unsent.map(members)));
  };
  room.on("change", save);
  const isKnown = ({ at }) => Date.now() - at < KNOWN_MS;
  for (const { key, message, data } of stored.filter(isKnown)) room.send(message, { key, data });
  return stored.filter((message) => !isKnown(message)).map(({ message }) => message);
}
