// What the page knows of one room.

import { serverNow } from "./clock.js";

/** Entries kept for scrolling back. */
const KEPT = 20_000;

/** How long someone counts as typing after the last sign of it. */
const TYPING_MS = 5_000;

export class Room {
  /** Messages and notices, oldest first. */
  entries = [];
  /** The index of the first. It rises when old ones are dropped, and falls when older ones
   *  come: an entry's own index never changes. */
  first = 0;
  /** The sequence that the oldest message belongs to. */
  epoch = null;
  /** Of the messages before it: `ready` to be asked for, `asked`, `failed`, or `none`. */
  older = "none";
  /** Messages up to this one were said before one came. */
  past = 0;
  /** One's own messages that the room has not seen, by key. */
  unsent = new Map();
  members = new Map();
  count = 0;
  /** Whether only their number is known to be right. */
  isCrowd = false;
  typing = new Map();
  unread = 0;
  draft = "";

  constructor(id) {
    this.id = id;
  }

  /** `dayAt` is the time whose day an entry stands under: the days of a list never run back,
   *  though the clocks of two servers may differ. */
  add(entry) {
    const before = this.entries.at(-1)?.dayAt ?? entry.at;
    this.entries.push({ ...entry, dayAt: Math.max(before, entry.at) });
    if (this.entries.length > KEPT * 1.1) {
      this.first += this.entries.length - KEPT;
      this.entries.splice(0, this.entries.length - KEPT);
    }
  }

  prepend(entries) {
    this.entries.unshift(...entries.map((entry) => ({ ...entry, dayAt: entry.at })));
    this.first -= entries.length;
  }

  /** The offset of the oldest message, if there are older ones and room for them. */
  get before() {
    if (this.entries.length >= KEPT) return undefined;
    const oldest = this.entries.find((entry) => entry.offset !== undefined)?.offset;
    return oldest > 1 ? oldest : undefined;
  }

  notice(text) {
    this.add({ notice: text, at: serverNow() });
  }

  /** One has come, for the first time or again. */
  welcome({ rejoined, epoch, offset, members, count }) {
    if (!rejoined) {
      this.epoch = epoch;
      this.past = offset ?? 0;
    }
    this.older = offset === undefined ? "none" : "ready";
    this.typing.clear();
    this.list({ members, count });
  }

  /** The messages after this are not those that came before. */
  gap({ epoch }) {
    if (this.before === undefined) this.epoch = epoch;
    this.past = 0;
  }

  /** The server's own list. */
  list({ members, count }) {
    this.members = new Map(members.map((user) => [user.id, user]));
    this.count = Math.max(count, this.members.size);
    this.isCrowd = false;
  }

  /** Asks the server for it, when this one is no longer right. */
  async listAnew(client) {
    this.list(await client.members(this.id));
  }

  /** So many that their comings and goings are not told. */
  crowd(count) {
    this.count = count;
    this.isCrowd = true;
  }

  came(user) {
    if (!this.members.has(user.id)) this.count += 1;
    this.members.set(user.id, user);
  }

  /** Returns the name before, of someone who is listed. */
  renamed(user) {
    const before = this.members.get(user.id)?.name;
    if (before !== undefined) this.members.set(user.id, user);
    return before;
  }

  left(user) {
    this.typing.delete(user.id);
    // Someone beyond the listed ones may be counted, too.
    if (this.members.delete(user.id) || this.count > this.members.size) this.count -= 1;
  }

  typed(user, typing) {
    if (typing) this.typing.set(user.id, { user, until: performance.now() + TYPING_MS });
    else this.typing.delete(user.id);
  }

  /** Who types now. */
  typists() {
    for (const [id, { until }] of this.typing) {
      if (until <= performance.now()) this.typing.delete(id);
    }
    return [...this.typing.values()].map(({ user }) => user);
  }
}
