// A room in the page: what its list shows beside the room of the client.

import { serverNow } from "./clock.js";

export class Room {
  /** Messages and notices, oldest first. */
  entries = [];
  /** The index of the first entry. It rises when old entries are dropped, and falls when older ones
   *  are loaded: the index of an entry never changes. */
  first = 0;
  /** Whether the last page of older messages failed to load. */
  hasFailed = false;
  unread = 0;
  draft = "";

  /** `handle`: the room of the client. */
  constructor(handle) {
    this.handle = handle;
    this.id = handle.name;
  }

  /** The client's own messages that the room has not sent back yet. */
  get pending() {
    const { messages } = this.handle.snapshot;
    return messages.slice(1 + messages.findLastIndex(({ state }) => state === "received"));
  }

  /** `dayAt` is the time whose day an entry stands under: the days of a list never run back,
   *  though the clocks of two servers may differ. */
  add(entry) {
    const before = this.entries.at(-1)?.dayAt ?? entry.at;
    this.entries.push({ ...entry, dayAt: Math.max(before, entry.at) });
  }

  notice(text) {
    this.add({ notice: text, at: serverNow() });
  }

  prepend(messages) {
    this.entries.unshift(...messages.map((message) => ({ ...message, dayAt: message.at })));
    this.first -= messages.length;
  }

  /** Drops so many of the oldest messages, and the notices between them. */
  drop(messages) {
    let index = 0;
    for (let left = messages; left > 0; index += 1) left -= this.entries[index].user ? 1 : 0;
    this.entries.splice(0, index);
    this.first += index;
  }
}
