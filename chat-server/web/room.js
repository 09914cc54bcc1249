// The state of a room in the page.

import { serverNow } from "./clock.js";

/** Entries kept for scrolling back. */
const KEPT = 20_000;

/** How long a user counts as typing after the last `typing` event. */
const TYPING_MS = 5_000;

export class Room {
  /** Messages and notices, oldest first. */
  entries = [];
  /** The index of the first entry. It rises when old entries are dropped, and falls when older ones
   *  are loaded: the index of an entry never changes. */
  first = 0;
  /** The sequence that the oldest message belongs to. */
  epoch = null;
  /** Of the messages before it: `ready` to be asked for, `asked`, `failed`, or `none`. */
  older = "none";
  /** The offset of the latest message before the join. */
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

  /** Handles a join or a rejoin of this client. */
  welcome({ rejoined, epoch, offset, members, count }) {
    if (!rejoined) {
      this.epoch = epoch;
      this.past = offset ?? 0;
    }
    this.older = offset === undefined ? "none" : "ready";
    this.typing.clear();
    this.list({ members, count });
  }

  /** Handles a `gap`: the messages after it do not follow on the earlier ones. */
  gap({ epoch }) {
    if (this.before === undefined) this.epoch = epoch;
    this.past = 0;
  }

  /** Sets the list of the server. */
  list({ members, count }) {
    this.members = new Map(members.map((user) => [user.id, user]));
    this.count = Math.max(count, this.members.size);
    this.isCrowd = false;
  }

  /** Loads the list from the server when this one is stale. */
  async loadMembers(client) {
    this.list(await client.members(this.id));
  }

  /** The number of members in a room whose joins and leaves are not sent. */
  crowd(count) {
    this.count = count;
    this.isCrowd = true;
  }

  addMember(user) {
    if (!this.members.has(user.id)) this.count += 1;
    this.members.set(user.id, user);
  }

  /** Returns the previous name of a listed user. */
  renamed(user) {
    const before = this.members.get(user.id)?.name;
    if (before !== undefined) this.members.set(user.id, user);
    return before;
  }

  removeMember(user) {
    this.typing.delete(user.id);
    // Users beyond the list are counted as well.
    if (this.members.delete(user.id) || this.count > this.members.size) this.count -= 1;
  }

  typed(user, typing) {
    if (typing) this.typing.set(user.id, { user, until: performance.now() + TYPING_MS });
    else this.typing.delete(user.id);
  }

  /** The users that are typing. */
  typists() {
    for (const [id, { until }] of this.typing) {
      if (until <= performance.now()) this.typing.delete(id);
    }
    return [...this.typing.values()].map(({ user }) => user);
  }
}
