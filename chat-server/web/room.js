// What the page knows of one room.

/** Entries kept for scrolling back. */
const KEPT = 20_000;

/** How long someone counts as typing after the last sign of it. */
const TYPING_MS = 5_000;

export class Room {
  /** Messages and notices, oldest first. The index of the first is `dropped`. */
  entries = [];
  dropped = 0;
  /** One's own messages that the room has not seen, by key. */
  unsent = new Map();
  members = new Map();
  count = 0;
  typing = new Map();
  unread = 0;
  draft = "";

  constructor(id) {
    this.id = id;
  }

  add(entry) {
    this.entries.push(entry);
    if (this.entries.length > KEPT * 1.1) {
      this.dropped += this.entries.length - KEPT;
      this.entries.splice(0, this.entries.length - KEPT);
    }
  }

  notice(text, at = Date.now()) {
    this.add({ notice: text, at });
  }

  /** The server's own list, after a join. */
  welcome({ members, count }) {
    this.members = new Map(members.map((user) => [user.id, user]));
    this.count = Math.max(count, this.members.size);
    this.typing.clear();
  }

  came(user) {
    if (!this.members.has(user.id)) this.count += 1;
    this.members.set(user.id, user);
  }

  left(user) {
    this.typing.delete(user.id);
    // Someone beyond the listed ones may be counted, too.
    if (this.members.delete(user.id) || this.count > this.members.size) this.count -= 1;
  }

  typed(user, typing) {
    if (typing) this.typing.set(user.id, { user, until: Date.now() + TYPING_MS });
    else this.typing.delete(user.id);
  }

  /** Who types now. */
  typists() {
    const now = Date.now();
    for (const [id, { until }] of this.typing) {
      if (until <= now) this.typing.delete(id);
    }
    return [...this.typing.values()].map(({ user }) => user);
  }
}
