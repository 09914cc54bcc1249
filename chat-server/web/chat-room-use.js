// A room as a component of React or Vue uses it.

/** A room that is not joined yet. */
export const EMPTY = Object.freeze({
  state: "joining",
  error: null,
  can: null,
  messages: [],
  hasMore: false,
  isLoading: false,
  members: [],
  count: 0,
  typists: [],
});

export const ACTIONS = ["send", "resend", "discard", "history", "typing", "kick", "ban", "unban", "join"];

/** The options that mounted components give, each with its client and the name of its room. */
const GIVEN = new Set();

/** A render may be discarded, so making it has no effect. `mount` comes before the effects of all
 *  components that are mounted together. The room is held while something is subscribed. */
export function roomUse(client, name) {
  let isMounted;
  let isHeld;
  /** The latest handle. After the unmount it is released, and refuses what is called. */
  let room;
  const hold = () => client.room(name, [...GIVEN].find((given) => given.client === client && given.name === name));
  const act = (action) => (...args) => {
    if (isHeld || (room && !isMounted)) return room[action](...args);
    if (!isMounted) throw new Error(`The room ${name} is not mounted.`);
    // The effects of children run before the subscription. The room is not left before it follows.
    const early = hold();
    const result = early[action](...args);
    early.release();
    return result;
  };
  return {
    mount(history, keep) {
      const given = { client, name, history, keep };
      isMounted = true;
      if ((history ?? keep) !== undefined) GIVEN.add(given);
      return () => {
        isMounted = false;
        GIVEN.delete(given);
      };
    },
    subscribe(onChange) {
      const held = hold();
      const end = held.on("change", () => onChange());
      room = held;
      isHeld = true;
      return () => {
        isHeld = false;
        end();
        held.release();
      };
    },
    snapshot: () => (isHeld ? room.snapshot : EMPTY),
    actions: Object.fromEntries(ACTIONS.map((action) => [action, act(action)])),
  };
}
