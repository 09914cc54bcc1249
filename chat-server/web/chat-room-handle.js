// A room as an application shows it: its messages in order, each once, with the client's own
// that are on their way; its members, and who is typing. It is kept up to date by the client's events.

import { ChatError, droppable } from "./chat-answer.js";
import { Emitter } from "./chat-events.js";
import { MOST_DRAFTS, PAGE, TYPING_MS } from "./chat-numbers.js";

/** The latest of the numbers that name the entries of lists. */
let lastId = 0;

/** One caller's use of a room. All callers share the room itself. */
export class RoomHandle extends Emitter {
  #room;
  /** The snapshot of a handle that was released. */
  #last = null;

  constructor(room, client) {
    super();
    const name = (this.name = room.name);
    this.#room = room;
    for (const action of ["send", "resend", "discard", "history", "typing", "kick", "ban", "unban"]) {
      this[action] = (...args) => (action in room ? room[action](...args) : client[action](name, ...args));
    }
  }

  get snapshot() {
    return this.#last ?? this.#room.snapshot;
  }

  join() {
    return this.#last ? rejected(this.#last.error) : this.#room.join();
  }

  release() {
    if (this.#last) return;
    this.#last = Object.freeze({ ...this.snapshot, state: "left", error: new ChatError("not_in_room") });
    this.#room.release(this);
  }
}

/** A room that one client shows, whatever the number of its handles. The client dispatches its events
 *  to it. */
export class SharedRoom extends Emitter {
  #client;
  #connection;
  /** How many messages to bring, and how many to hold. */
  #history;
  #keep;
  #drafts;
  #onRelease;
  #handles = new Set();
  #isOver = false;
  /** Whether the room is left only while the client is closed: the next connection joins it. */
  #isWanted;
  /** The join whose outcome counts. */
  #joining;
  /** What the snapshot has beside its lists. */
  #shown = { state: "joining", error: null, can: null, hasMore: false, count: 0 };
  /** Received messages, oldest first. */
  #received = [];
  /** The client's own messages that the room has not sent back yet, by key. */
  #pending = new Map();
  /** How many sends have no outcome yet. */
  #unsettled = 0;
  #epoch;
  /** Pages before this offset may be loaded: none before 0 and 1, the latest one without it. */
  #before;
  /** The offset of the room when the client joined it. */
  #past = 0;
  #loading = null;
  /** Whether messages were lost before the next one. */
  #isGap = false;
  #members = new Map();
  /** Whether the room sends the number of members in place of joins and leaves. */
  #isCrowd = false;
  /** By id: who is typing, and the timer that ends it. */
  #typists = new Map();
  #snapshot = null;
  /** The lists of the snapshot that have not changed since it was made. */
  #lists = {};

  /** `drafts`: the messages that have failed, of all rooms without a handle, and their rooms.
   *  `onRelease()` is called when no handle is left. */
  constructor(client, connection, name, { history = 50, keep = 20_000 }, drafts, onRelease) {
    super();
    this.name = name;
    this.#client = client;
    this.#history = history;
    this.#keep = Math.max(1, keep);
    this.#connection = connection;
    this.#drafts = drafts;
    this.#onRelease = onRelease;
    for (const [room, draft] of drafts.splice(0)) {
      if (room !== name) drafts.push([room, draft]);
      else this.#pending.set(draft.key, { ...draft, user: client.user ?? draft.user });
    }
    for (const [type, handle] of Object.entries(this.#handlers)) {
      this.on(type, (detail) => (type === "state" || detail.room === name) && handle(detail));
    }
    this.#join();
  }

  /** The room at this moment; the same object until something changes, with the same list of
   *  messages, members or typists until that one does. */
  get snapshot() {
    const lists = this.#lists;
    lists.messages ??= [...this.#received, ...this.#pending.values()];
    lists.members ??= [...this.#members.values()];
    lists.typists ??= [...this.#typists.values()].map(({ user }) => user);
    const shown = this.#shown;
    // Who is not in the room may not read it. It is there again for who returns. An earlier server does
    // not say what the user may do.
    const hasMore = shown.hasMore && shown.state !== "left" && shown.can?.includes("history") !== false;
    this.#snapshot ??= Object.freeze({ ...shown, ...lists, hasMore, isLoading: Boolean(this.#loading) });
    return this.#snapshot;
  }

  #handlers = {
    state: ({ state, error }) => {
      const isLeft = this.#shown.state === "left";
      if (error && !isLeft) this.#onLeft(error);
      if (state === "connecting" && this.#isWanted) {
        if (isLeft) this.#setState("joining");
        // The client itself joins what it was in.
        if (!this.#client.rooms.includes(this.name)) this.#join();
      }
      if (state === "online") this.#onOnline();
    },
    joined: (joined) => {
      // What a first join delivers follows. After a kick it would be there twice.
      if (!joined.rejoined) this.#received = [];
      this.#onJoined(joined);
    },
    message: (message) => {
      this.#epoch = message.epoch;
      const entry = this.#entry(message);
      if (this.#isGap) entry.isAfterGap = true;
      this.#isGap = false;
      this.#received.push(entry);
      this.#typed(entry.user, false);
      const isNew = !(entry.offset <= this.#past);
      this.#changed("message", { message: entry, isNew, dropped: this.#trim() });
    },
    gap: ({ epoch }) => {
      this.#isGap = true;
      this.#past = 0;
      // The pages before the oldest message were those of another sequence.
      if (epoch !== this.#epoch) this.#setBefore(0);
      this.#epoch = epoch;
      this.#changed("gap");
    },
    presence: ({ event, user, count }) => {
      const shown = this.#shown;
      const isStale = event === "count" ? count < this.#members.size : this.#isCrowd;
      const before = this.#members.get(user?.id);
      if (event === "count") {
        shown.count = count;
        this.#isCrowd = true;
      } else if (event === "left") {
        this.#typed(user, false);
        // Users beyond the list are counted as well.
        if (this.#members.delete(user.id) || shown.count > this.#members.size) shown.count -= 1;
      } else if (event === "joined" || before) {
        if (!before) shown.count += 1;
        this.#members.set(user.id, user);
      }
      this.#changed("members", { event, user, before });
      if (isStale) this.#loadMembers();
    },
    capabilities: ({ can }) => {
      this.#setCan(can);
      if (can.includes("presence")) {
        // Until the list is there, each event asks for it.
        this.#isCrowd = true;
        this.#loadMembers();
      } else this.#setMembers({ members: [this.#client.user], count: 1 });
      this.#changed("state");
    },
    typing: ({ user, typing }) => user.id !== this.#client.user.id && this.#typed(user, typing),
    delayed: ({ key, error }) => this.#update(key, { state: "delayed", error }),
    // A leave that the application requested has no reason.
    left: ({ reason: code = "not_in_room", message: reason, until }) =>
      this.#onLeft(new ChatError(code, reason, { until, reason })),
    refused: ({ error }) => this.#onLeft(error),
  };

  /** One more part of the application uses the room. */
  hold() {
    const handle = new RoomHandle(this, this.#client);
    this.#handles.add(handle);
    return handle;
  }

  /** The room is left when its last handle is released, and no other follows at once. */
  release(handle) {
    this.#handles.delete(handle);
    setTimeout(() => this.#leaveIfUnused());
  }

  /** Not before its messages are sent: the leave would overtake one that waits. */
  #leaveIfUnused() {
    if (this.#handles.size > 0 || this.#unsettled > 0 || this.#isOver) return;
    this.#isOver = true;
    this.#setPeople();
    const drafts = this.#drafts;
    for (const draft of this.#pending.values()) {
      if (draft.state === "failed") drafts.push([this.name, draft]);
    }
    drafts.splice(0, drafts.length - MOST_DRAFTS);
    this.#onRelease();
  }

  /** Joins a room that was left. */
  join() {
    if (this.#shown.state !== "left") return this.#client.join(this.name);
    this.#setState("joining");
    return this.#join();
  }

  /** Sends a message, which is in `messages` at once. */
  send(message, { data, key } = {}) {
    const sent = this.#client.send(this.name, message, { data, key });
    key = sent.key;
    // Before the first `welcome` the user has no id.
    const user = this.#client.user ?? { id: "", name: this.#connection.options.name ?? "", color: "" };
    const id = this.#idOf(key);
    this.#pending.set(key, { key, id, user, message, data, at: Date.now(), isOwn: true, state: "sending" });
    this.#unsettled += 1;
    const settle = (change) => {
      this.#unsettled -= 1;
      this.#update(key, change);
      this.#leaveIfUnused();
    };
    sent.then(
      ({ offset }) => {
        // The server has known its key: the room's copy is in the list, or on a page before it.
        const isOld = offset <= this.#received.at(-1)?.offset;
        settle(isOld ? undefined : { state: "sent", error: undefined });
      },
      (error) => settle({ state: "failed", error }),
    );
    this.#changed("pending", { key });
    return sent;
  }

  /** Sends a message that has failed once more, under its key: it is not delivered twice. */
  resend(key) {
    const pending = this.#pending.get(key);
    if (pending?.state === "failed") return this.send(pending.message, pending);
    return Object.assign(rejected(new ChatError("bad_field", "It has not failed.", { key })), { key });
  }

  /** Removes a message that has failed. */
  discard(key) {
    if (this.#pending.get(key)?.state === "failed") this.#update(key);
  }

  /** Loads the page before the oldest message; one at a time. */
  history(limit = PAGE) {
    if (!this.snapshot.hasMore) return Promise.resolve();
    if (!this.#loading) {
      this.#loading = droppable(this.#load(limit));
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
      this.#shown.hasMore = more && epoch === this.#epoch;
      if (epoch === this.#epoch) this.#prepend(messages);
      // What the application has loaded is not dropped for the next message.
      this.#keep = Math.max(this.#keep, this.#received.length);
    } catch (error) {
      if (error.code !== "history_disabled") throw error;
      this.#shown.hasMore = false;
    } finally {
      this.#loading = null;
      this.#changed("history");
    }
  }

  #onOnline() {
    // Without a token it is the same person, whom a server did not recognize.
    if (this.#connection.isOtherPerson) this.#empty();
    for (const [key, pending] of this.#pending) {
      if (pending.user.id !== this.#client.user.id) this.#update(key, { user: this.#client.user });
    }
  }

  /** Forgets what another user has seen. The client joins again, which brings what was missed; what
   *  this user may read of the rest is a page of the history. */
  #empty() {
    // What still waited has failed: it is not sent as another person.
    this.#pending.clear();
    this.#received = [];
    this.#before = undefined;
    this.#setPeople();
    const { state, error } = this.#shown;
    this.#shown.hasMore = true;
    this.#setState(state === "left" ? state : "joining", error);
    this.history(this.#history);
  }

  #join() {
    const joining = this.#client.join(this.name, { history: this.#history });
    this.#isWanted = true;
    this.#joining = joining;
    joining.then(
      (joined) => {
        // Without an event: the client was in the room already.
        if (this.#shown.state === "joining") this.#onJoined({ ...joined, rejoined: false });
        this.#prepend(joined.messages);
        this.#changed("state", { rejoined: false });
      },
      (error) => joining === this.#joining && this.#onLeft(error),
    );
    return joining;
  }

  #onJoined({ rejoined, epoch, offset = 0, messages, more, ...people }) {
    Object.assign(this.#shown, { state: "joined", error: null });
    if (!rejoined) {
      this.#epoch = epoch;
      this.#past = offset;
      this.#setBefore(messages[0]?.offset ?? offset + 1, more);
    }
    for (const [key, { state }] of this.#pending) {
      // It is in the answer, or it is lost.
      if (state === "sent") this.#pending.delete(key);
    }
    this.#setPeople(people);
    // The messages of a first join follow before the change.
    if (rejoined) this.#changed("state", { rejoined });
  }

  #onLeft(error) {
    const { error: end } = this.#client.status;
    this.#isWanted = Boolean(end);
    this.#joining = null;
    this.#setPeople();
    this.#setState("left", end ?? error);
  }

  /** Who is in the room, and what the user may do there; of a room that was left, nothing. */
  #setPeople({ members = [], count = 0, can = null } = {}) {
    this.#setCan(can);
    for (const { timer } of this.#typists.values()) clearTimeout(timer);
    this.#typists.clear();
    this.#setMembers({ members, count });
  }

  #setCan(can) {
    const couldNotRead = this.#shown.can?.includes("history") === false;
    this.#shown.can = can;
    if (couldNotRead && can?.includes("history")) this.#setBefore(this.#before);
  }

  #entry(message) {
    const isOwn = message.user.id === this.#client.user.id;
    const id = this.#idOf(isOwn ? message.key : undefined);
    if (isOwn) this.#pending.delete(message.key);
    return { ...message, id, epoch: message.epoch ?? this.#epoch, isOwn, state: "received" };
  }

  /** What names an entry of the list as long as it is there, on its way under its key and then: an
   *  offset begins again with each sequence, and two users may choose the same key. */
  #idOf(key) {
    return this.#pending.get(key)?.id ?? (lastId += 1);
  }

  /** Drops the oldest messages of too many, in portions, and returns how many. They can be loaded
   *  again. */
  #trim() {
    const { length } = this.#received;
    if (length <= this.#keep * 1.1) return 0;
    const dropped = this.#received.splice(0, length - this.#keep).length;
    const { epoch, offset } = this.#received[0];
    // Pages before a message of an earlier sequence would be those of the present one.
    this.#setBefore(epoch === this.#epoch ? offset : 0);
    return dropped;
  }

  /** `more`: whether there are messages before this offset; by default there may be, if it is not the first. */
  #setBefore(offset, more = !(offset <= 1)) {
    this.#before = offset;
    this.#shown.hasMore = more;
  }

  #prepend(messages) {
    const older = messages.filter(({ offset }) => offset < (this.#received[0]?.offset ?? Infinity));
    if (older.length === 0) return;
    this.#received.unshift(...older.map((message) => this.#entry(message)));
    this.#before = older[0].offset;
    this.#changed("history", { count: older.length });
  }

  #setMembers({ members, count }) {
    this.#members = new Map(members.map((user) => [user.id, user]));
    this.#shown.count = Math.max(count, this.#members.size);
    this.#isCrowd = false;
  }

  #loadMembers() {
    const loaded = this.#client.members(this.name).then((members) => {
      this.#setMembers(members);
      this.#changed("members");
    });
    // The next event asks again.
    droppable(loaded);
  }

  #typed(user, typing) {
    const before = this.#typists.get(user.id);
    if (!before && !typing) return;
    clearTimeout(before?.timer);
    this.#typists.delete(user.id);
    if (typing) {
      const timer = setTimeout(() => this.#typed(user, false), TYPING_MS);
      this.#typists.set(user.id, { user, timer });
    }
    this.#changed("typists");
  }

  /** What has become of a pending message, unless the room has sent it back. Without a `change` it
   *  is removed. */
  #update(key, change) {
    const pending = this.#pending.get(key);
    if (!pending) return;
    if (change) this.#pending.set(key, { ...pending, ...change });
    else this.#pending.delete(key);
    this.#changed("pending", { key });
  }

  #setState(state, error = null) {
    Object.assign(this.#shown, { state, error });
    this.#changed("state");
  }

  #changed(what, detail) {
    this.#snapshot = null;
    // A `state` may change all lists.
    if (what === "state") this.#lists = {};
    else delete this.#lists[["members", "typists"].includes(what) ? what : "messages"];
    for (const handle of this.#handles) {
      handle.dispatchEvent(new CustomEvent("change", { detail: { what, ...detail } }));
    }
  }
}

function rejected(error) {
  return droppable(Promise.reject(error));
}
