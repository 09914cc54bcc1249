/** How long the client tries to send a message. */
export const SEND_TIMEOUT_MS = 240_000;

/** Servers know the key of a message for five minutes: what may be sent later than that, with the time
 *  that the client tries, could be there twice. */
const KNOWN_MS = 5 * 60_000 - SEND_TIMEOUT_MS;

const UNSENT = new Set(["sending", "delayed", "failed"]);

/** Failures of the connection, after which the message is sent again. Others are the server's refusals. */
export const PASSING = new Set(["closed", "disconnected", "offline", "outcome_unknown", "timeout"]);

/** Whether a stored message is sent again after a reload. */
export const isSentAgain = ({ at, code }) => Date.now() - at < KNOWN_MS && (!code || PASSING.has(code));

/** Stores a text, or nothing where the storage is full: the chat goes on without it. */
export function store(storage, place, text) {
  try {
    storage.setItem(place, text);
  } catch {
    storage.removeItem(place);
  }
}

/** Removes what the tab has stored for another user, who did not log out. */
export function claimStorage(user, storage = sessionStorage) {
  const isOfChat = (name) => /^(draft|unsent) /.test(name);
  if (storage.getItem("chat user") !== user) {
    for (const name of Object.keys(storage).filter(isOfChat)) storage.removeItem(name);
  }
  store(storage, "chat user", user);
}

/** Stores the messages of a room that are not sent, and sends those that were stored before the reload.
 *  Returns the texts that are too old for that, or were refused. `prefix` names the user. */
export function keepUnsent(room, prefix, storage = sessionStorage) {
  const place = `${prefix} ${room.name}`;
  let stored = JSON.parse(storage.getItem(place) ?? "[]");
  const drafts = stored.filter((message) => !isSentAgain(message)).map(({ message }) => message);
  for (const { key, message, data } of stored.filter(isSentAgain)) room.send(message, { key, data });
  const save = () => {
    /** By key: when a message was sent first. */
    const times = new Map(stored.map(({ key, at }) => [key, at]));
    const members = ({ key, message, data, at, state, error }) => {
      const code = state === "failed" ? error.code : undefined;
      return { key, message, data, code, at: times.get(key) ?? at };
    };
    stored = room.snapshot.messages.filter(({ state }) => UNSENT.has(state)).map(members);
    store(storage, place, JSON.stringify(stored));
  };
  room.on("change", ({ what, message: { isOwn } = {} }) => (what === "pending" || isOwn) && save());
  save();
  return drafts;
}

/** Keeps the text of an input for each room, also over a reload. `prefix` names the user. `show(name)` begins with
 *  a room, and `add(name, texts)` adds to its text. */
export function keepDrafts(input, prefix, storage = sessionStorage) {
  let shown;
  const placeOf = (name) => `${prefix} ${name}`;
  const save = (name, text) => store(storage, placeOf(name), text);
  const textOf = (name) => (name === shown ? input.value : storage.getItem(placeOf(name)) ?? "");
  input.addEventListener("input", () => save(shown, input.value));
  input.form.addEventListener("reset", () => save(shown, ""));
  return {
    show(name) {
      input.value = textOf(name);
      shown = name;
    },
    add(name, texts) {
      const text = [textOf(name), ...texts].filter(Boolean).join(" ");
      save(name, text);
      if (name === shown) input.value = text;
    },
  };
}
