// A room as an application shows it: its messages in order, each once, with the client's own
// that are on their way; its members, and who is typing. It is kept up to date by the client's events.

import { ChatError, rejected } from "./chat-answer.js";
import { Emitter } from "./chat-events.js";

/** How long a user counts as typing after the last `typing` event. */
const TYPING_MS = 5_000;

/** What a change of the room changes of the snapshot's lists. */
const CHANGES = {
  state: ["messages", "members", "typists"],
  message: ["messages"],
  history: ["messages"],
  pending: ["messages"],
  gap: [],
  members: ["members"],
  typists: ["typists"],
};

/** The user of a client that was never connected. */
const UNKNOWN_USER = { id: "", name: "", color: "" };

/** Messages in a page of the history. */
const PAGE = 100;

export class RoomHandle extends Emitter {
  #client;
  #options;
  #onRelease;
  #holders = 0;
  /** Ends the subscriptions to the client's events. */
  #ending = new AbortController();
  /** Whether a join failed because the client was closed: the next connection repeats it. */
  #isJoinDue = false;
  #state = "joining";
  #error = null;
  #can = null;
  /** Received messages, oldest first. */
  #received = [];
  /** The client's own messages that the room has not sent back yet, by key. */
  #pending = new Map();
  #epoch;
  /** Pages before this offset may be loaded; undefined where there are none. */
  #before;
  /** The offset of the room when the client joined it. */
  #past = 0;
  #hasMore = false;
  #loading = null;
  /** Whether messages were lost before the next one. */
  #isGap = false;
  #members = new Map();
  #count = 0;
  /** Whether the room sends the number of members in place of joins and leaves. */
  #isCrowd = false;
  /** By id: who is typing, and the timer that ends it. */
  #typists = new Map();
  #snapshot = null;
  /** The lists of the snapshot that have not changed since it was made. */
  #lists = {};

  /** `onRelease()` is called when the last holder has released the room. */
  constructor(client, name, { history = 50, keep = 20_000 }, onRelease) {
    super();
    this.name = name;
    this.#client = client;
    this.#options = { history, keep };
    this.#onRelease = onRelease;
    const handlers = {
      joined: (joined) => this.#onJoined(joined),
      message: (message) => this.#onMessage(message),
      gap: (gap) => this.#onGap(gap),
      presence: (presence) => this.#onPresence(presence),
      typing: ({ user, typing }) => this.#onTyping(user, typing),
      delayed: ({ key, error }) => this.#update(key, { state: "delayed", error }),
      // A leave that the application requested has no reason.
      left: ({ reason: code = "not_in_room", message: reason, until }) =>
        this.#onLeft(new ChatError(code, reason, { until, reason })),
      refused: ({ error }) => this.#onLeft(error),
    };
    const { signal } = this.#ending;
    for (const [type, handler] of Object.entries(handlers)) {
      client.on(type, (detail) => detail.room === name && handler(detail), { signal });
    }
    client.on("state", ({ state }) => state === "online" && this.#onOnline(), { signal });
    this.#join();
  }

  /** The room at this moment; the same object until something changes, with the same list of
   *  messages, members or typists until that one does. */
  get snapshot() {
    this.#snapshot ??= Object.freeze({
      state: this.#state,
      error: this.#error,
      can: this.#can,
      messages: (this.#lists.messages ??= [...this.#received, ...this.#pending.values()]),
      hasMore: this.#hasMore,
      isLoading: this.#loading !== null,
      members: (this.#lists.members ??= [...this.#members.values()]),
      count: this.#count,
      typists: (this.#lists.typists ??= [...this.#typists.values()].map(({ user }) => user)),
    });
    return this.#snapshot;
  }

  /** One more part of the application uses the room. */
  hold() {
    this.#holders += 1;
    if (this.#state === "left") {
      this.#state = "joining";
      this.#error = null;
      this.#changed("state");
      this.#join();
    }
    return this;
  }

  /** The room is left when its last holder has released it, and no other follows at once. */
  release() {
    this.#holders -= 1;
    setTimeout(() => {
      if (this.#holders > 0 || this.#ending.signal.aborted) return;
      this.#ending.abort();
      this.#clearTypists();
      this.#onRelease();
      this.#client.leave(this.name);
    });
  }

  /** Sends a message, which is in `messages` at once. */
  send(message, { data, key } = {}) {
    const sent = this.#client.send(this.name, message, { data, key });
    const user = this.#client.user ?? UNKNOWN_USER;
    const pending = { user, message, data, at: Date.now(), isOwn: true, state: "sending" };
    this.#pending.set(sent.key, { key: sent.key, ...pending });
    sent.then(
      () => this.#update(sent.key, { state: "sent", error: undefined }),
      (error) => this.#update(sent.key, { state: "failed", error }),
    );
    this.#changed("pending", { key: sent.key });
    return sent;
  }

  /** Sends a message that has failed once more, under its key: it is not delivered twice. */
  resend(key) {
    const { message, data, state } = this.#pending.get(key) ?? {};
    if (state === "failed") return this.send(message, { data, key });
    const refusal = new ChatError("bad_field", "No message with this key has failed.", { key });
    return Object.assign(rejected(refusal), { key });
  }

  /** Removes a message that has failed. */
  discard(key) {
    if (this.#pending.get(key)?.state !== "failed") return;
    this.#pending.delete(key);
    this.#changed("pending", { key });
  }

  typing(typing) {
    this.#client.typing(this.name, typing);
  }

  kick(user, reason) {
    return this.#client.kick(this.name, user, reason);
  }

  ban(user, options) {
    return this.#client.ban(this.name, user, options);
  }

  unban(user) {
    return this.#client.unban(this.name, user);
  }

  /** Loads the page before the oldest message; one at a time. */
  history(limit = PAGE) {
    const isFull = this.#received.length >= this.#options.keep;
    if (!this.#hasMore || isFull) return Promise.resolve();
    if (!this.#loading) {
      this.#loading = this.#load(limit).finally(() => {
        this.#loading = null;
        this.#changed("history");
      });
      // The caller need not handle it.
      this.#loading.catch(() => {});
      this.#changed("history");
    }
    return this.#loading;
  }

  async #load(limit) {
    const before = this.#before;
    try {
      const { epoch, messages, more } = await this.#client.history(this.name, { before, limit });
      if (before !== this.#before) return;
      // Messages of another sequence do not lie before these.
      this.#hasMore = more && epoch === this.#epoch;
      if (epoch === this.#epoch) this.#prepend(messages);
    } catch (error) {
      if (error.code === "history_disabled") this.#hasMore = false;
      else throw error;
    }
  }

  #onOnline() {
    if (this.#isJoinDue) this.#join();
    for (const [key, { user }] of this.#pending) {
      if (user === UNKNOWN_USER) this.#update(key, { user: this.#client.user });
    }
  }

  #join() {
    this.#isJoinDue = false;
    this.#client.join(this.name, { history: this.#options.history }).then(
      (joined) => {
        // Without an event: the client was in the room already.
        if (this.#state === "joining") this.#onJoined({ ...joined, rejoined: false });
        this.#prepend(joined.messages);
        this.#changed("state", { rejoined: false });
      },
      (error) => {
        this.#isJoinDue = this.#client.state === "closed";
        if (!this.#isJoinDue) this.#onLeft(error);
      },
    );
  }

  #onJoined({ rejoined, epoch, offset, members, count, messages, more, can }) {
    this.#state = "joined";
    this.#error = null;
    this.#can = can ?? null;
    if (!rejoined) {
      this.#epoch = epoch;
      this.#past = offset ?? 0;
      this.#before = messages[0]?.offset ?? (offset ?? 0) + 1;
      // A server that does not say so may have more.
      this.#hasMore = more ?? this.#before > 1;
    }
    for (const [key, { state }] of this.#pending) {
      // It is in the answer, or it is lost.
      if (state === "sent") this.#pending.delete(key);
    }
    this.#clearTypists();
    this.#list({ members, count });
    // The messages of a first join follow before the change.
    if (rejoined) this.#changed("state", { rejoined });
  }

  #onLeft(error) {
    this.#state = "left";
    this.#error = error;
    this.#changed("state");
  }

  #onMessage(message) {
    this.#epoch = message.epoch ?? this.#epoch;
    const entry = this.#entry(message);
    if (this.#isGap) entry.isAfterGap = true;
    this.#isGap = false;
    this.#received.push(entry);
    if (entry.isOwn) this.#pending.delete(entry.key);
    this.#typed(entry.user, false);
    const isNew = !(entry.offset <= this.#past);
    this.#changed("message", { message: entry, isNew, dropped: this.#trim() });
  }

  #entry(message) {
    const isOwn = message.user.id === this.#client.user?.id;
    return { ...message, epoch: message.epoch ?? this.#epoch, isOwn, state: "received" };
  }

  /** Drops the oldest messages of too many, in portions, and returns how many. They can be loaded
   *  again. */
  #trim() {
    const { keep } = this.#options;
    if (this.#received.length <= keep * 1.1) return 0;
    const dropped = this.#received.splice(0, this.#received.length - keep).length;
    const [{ epoch, offset }] = this.#received;
    this.#before = offset;
    // Pages before a message of an earlier sequence would be those of the present one.
    this.#hasMore = offset > 1 && epoch === this.#epoch;
    return dropped;
  }

  #prepend(messages) {
    const older = messages.filter(({ offset }) => offset < (this.#received[0]?.offset ?? Infinity));
    if (older.length === 0) return;
    this.#received.unshift(...older.map((message) => this.#entry(message)));
    this.#before = older[0].offset;
    this.#changed("history", { count: older.length });
  }

  #onGap({ epoch }) {
    this.#isGap = true;
    this.#past = 0;
    // The pages before the oldest message were those of another sequence.
    if (epoch !== this.#epoch) this.#hasMore = false;
    this.#epoch = epoch;
    this.#changed("gap");
  }

  #list({ members, count }) {
    this.#members = new Map(members.map((user) => [user.id, user]));
    this.#count = Math.max(count, this.#members.size);
    this.#isCrowd = false;
  }

  #onPresence({ event, user, count }) {
    const isStale = event === "count" ? count < this.#members.size : this.#isCrowd;
    const before = this.#members.get(user?.id);
    if (event === "count") {
      this.#count = count;
      this.#isCrowd = true;
    } else if (event === "left") {
      this.#typed(user, false);
      // Users beyond the list are counted as well.
      if (this.#members.delete(user.id) || this.#count > this.#members.size) this.#count -= 1;
    } else if (event === "joined" || before) {
      if (!before) this.#count += 1;
      this.#members.set(user.id, user);
    }
    this.#changed("members", { event, user, before });
    if (isStale) this.#loadMembers();
  }

  #loadMembers() {
    this.#client.members(this.name).then(
      (members) => {
        this.#list(members);
        this.#changed("members", {});
      },
      // The next event asks again.
      () => {},
    );
  }

  #onTyping(user, typing) {
    if (user.id === this.#client.user?.id) return;
    this.#typed(user, typing);
    this.#changed("typists");
  }

  #typed(user, typing) {
    clearTimeout(this.#typists.get(user.id)?.timer);
    if (this.#typists.delete(user.id)) delete this.#lists.typists;
    if (!typing) return;
    const timer = setTimeout(() => {
      this.#typists.delete(user.id);
      this.#changed("typists");
    }, TYPING_MS);
    this.#typists.set(user.id, { user, timer });
  }

  #clearTypists() {
    for (const { timer } of this.#typists.values()) clearTimeout(timer);
    this.#typists.clear();
  }

  /** What has become of a pending message, unless the room has sent it back. */
  #update(key, change) {
    const pending = this.#pending.get(key);
    if (!pending) return;
    this.#pending.set(key, { ...pending, ...change });
    this.#changed("pending", { key });
  }

  #changed(what, detail) {
    this.#snapshot = null;
    for (const list of CHANGES[what]) delete this.#lists[list];
    this.dispatchEvent(new CustomEvent("change", { detail: { what, ...detail } }));
  }
}
