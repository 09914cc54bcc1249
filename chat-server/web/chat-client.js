// A client of the chat protocol, version 1, for browsers and for any runtime with a
// WebSocket. It touches no page: docs/web-client.md tells how to use it, chat-client.d.ts
// has its types.

import { ChatError, deferred, droppable, isPassing, pauseAfter, rejected } from "./chat-answer.js";
import { Connection } from "./chat-connection.js";
import { nameRefusal, refusalOf } from "./chat-limits.js";
import { RoomCopy } from "./chat-room.js";
import { Sends } from "./chat-sends.js";
import { now } from "./chat-time.js";

export { ChatError };

/** What may happen to the members of a room; a later version may add to it. */
const PRESENCE_EVENTS = new Set(["joined", "left", "renamed", "count"]);

/** How often the same typing state is worth telling. */
const TYPING_REPEAT_MS = 2_000;

export class ChatClient extends EventTarget {
  #connection;
  #requests;
  #sends;
  /** Rooms to be in, by id; a reconnect joins them again. */
  #rooms = new Map();
  /** Events that wait for the handlers of the ones before them. */
  #events = [];
  #isDispatching = false;

  constructor(url, options = {}) {
    super();
    this.#connection = new Connection(url, options, {
      changed: (detail) => this.#emit("state", detail),
      frame: (frame, asked) => this.#onFrame(frame, asked),
      welcomed: () => this.#onWelcomed(),
      lost: () => this.#onLost(),
      ended: (error) => this.#onEnded(error),
    });
    this.#requests = this.#connection.requests;
    this.#sends = new Sends(this.#requests, options, (delay) => this.#emit("delayed", delay));
  }

  get state() {
    return this.#connection.state;
  }

  get user() {
    return this.#connection.welcome?.user ?? null;
  }

  get limits() {
    return this.#connection.welcome?.limits ?? null;
  }

  get node() {
    return this.#connection.welcome?.node ?? null;
  }

  get resume() {
    return this.#connection.resume;
  }

  /** Whether a `send` would be refused with `queue_full`. */
  get isFull() {
    return this.#sends.isFull;
  }

  /** How many messages wait to be sent, or for their answers. */
  get queued() {
    return this.#sends.count;
  }

  get rooms() {
    return [...this.#rooms.keys()];
  }

  on(type, handler) {
    const listener = (event) => handler(event.detail);
    this.addEventListener(type, listener);
    return () => this.removeEventListener(type, listener);
  }

  connect() {
    return this.#connection.connect();
  }

  close() {
    this.#connection.close();
  }

  check() {
    this.#connection.check();
  }

  rename(name) {
    const refusal = this.#closedRefusal ?? nameRefusal(name);
    if (refusal) return rejected(refusal);
    this.#connection.name = name;
    return this.#connection.reconnect();
  }

  join(room, { history } = {}) {
    const refusal = this.#closedRefusal ?? refusalOf({ room }, this.limits);
    if (refusal) return rejected(refusal);
    const known = this.#rooms.get(room);
    if (known?.joined) return this.#requests.ask({ type: "join", room, history });
    const entry = known ?? newEntry(room, history);
    this.#rooms.set(room, entry);
    const answer = deferred();
    entry.waiting.push(answer);
    if (this.#connection.isOnline && !known) this.#enter(entry);
    return answer.promise;
  }

  leave(room) {
    return droppable(this.#leave(room));
  }

  send(room, message, { data, key = randomKey() } = {}) {
    const refuse = ({ code, message }) => rejected(new ChatError(code, message, { key }));
    const frame = { type: "send", room, message, data, key };
    const refusal = this.#closedRefusal ?? this.#roomRefusal(room) ?? refusalOf(frame, this.limits);
    if (refusal) return refuse(refusal);
    if (this.#sends.isFull) {
      return refuse(new ChatError("queue_full", "Too many messages wait to be sent."));
    }
    return this.#sends.add(frame);
  }

  direct(to, message, { data } = {}) {
    return this.#requests.ask({ type: "direct", to, message, data });
  }

  typing(room, typing) {
    const entry = this.#rooms.get(room);
    if (!entry?.joined) return;
    const { typing: before = false, at = 0 } = entry.typing ?? {};
    if (before === typing && (!typing || now() - at < TYPING_REPEAT_MS)) return;
    if (this.#requests.post({ type: "typing", room, typing })) entry.typing = { typing, at: now() };
  }

  members(room) {
    return this.#requests.ask({ type: "members", room });
  }

  history(room, { before, after, limit } = {}) {
    const page = this.#requests.ask({ type: "history", room, before, after, limit });
    return droppable(page.then(withMessages));
  }

  get #closedRefusal() {
    return this.state === "closed" ? this.#connection.refusal : undefined;
  }

  #roomRefusal(room) {
    return this.#rooms.has(room) ? undefined : new ChatError("not_in_room", "Join the room first.");
  }

  async #leave(room) {
    const entry = this.#rooms.get(room);
    if (!entry) return;
    this.#abandon(entry, new ChatError("not_in_room", "The room was left."));
    // Of a join that has not left the server knows nothing.
    if (entry.isKnown) await this.#requests.request({ type: "leave", room });
  }

  #onFrame(frame, asked) {
    // Every frame with an offset is an entry of its room's sequence, whatever its type: a later
    // version can add kinds, and this one finds no hole where they are.
    if (isEntry(frame) && !this.#isNext(frame)) return undefined;
    switch (frame.type) {
      case "joined":
        return this.#onJoined(frame, asked);
      case "message":
        return this.#onMessage(frame);
      case "gap":
        return this.#onGap(frame);
      case "presence":
        return PRESENCE_EVENTS.has(frame.event) && this.#onNews(frame);
      case "typing":
        return this.#onNews(frame);
      case "direct":
      case "undelivered":
      case "goodbye":
        return this.#emit(frame.type, frame);
      case "left":
        return !asked && this.#onPutOut(frame);
      case "error":
        return this.#emit("error", ChatError.fromFrame(frame));
    }
  }

  /** A room that the client is in, unless it is being joined again. */
  #current(room) {
    const entry = this.#rooms.get(room);
    return entry?.joined && !entry.asked ? entry : undefined;
  }

  #onWelcomed() {
    this.#sends.becomeUser(this.user.id);
    for (const entry of this.#rooms.values()) {
      if (!entry.asked) this.#enter(entry);
    }
  }

  #onLost() {
    this.#sends.disconnect();
    for (const entry of this.#rooms.values()) {
      Object.assign(entry, { joined: false, asked: null, isKnown: false });
    }
  }

  #onEnded(error) {
    for (const { room, rejoins, waiting } of this.#rooms.values()) {
      for (const answer of waiting.splice(0)) answer.reject(error);
      // A join that has failed is not made up for by a later connection.
      if (!rejoins) this.#rooms.delete(room);
    }
    this.#sends.end(error);
  }

  /** Joins a room; what was missed since its copy ended comes with the answer. */
  async #enter(entry) {
    const { room, history, rejoins, copy } = entry;
    // A client that was in the room wants what it missed, and not what it has.
    const asked = { type: "join", room, since: copy.position, history: rejoins ? undefined : history };
    entry.asked = asked;
    try {
      await this.#requests.request(asked, {
        isWanted: () => entry.asked === asked,
        onSent: () => (entry.isKnown = true),
      });
    } catch (error) {
      if (entry.asked !== asked || error.code === "offline") return;
      if (isPassing(error)) {
        setTimeout(() => entry.asked === asked && this.#enter(entry), pauseAfter(error));
      } else {
        this.#abandon(entry, error);
        if (rejoins) this.#emit("refused", { room, error });
      }
    }
  }

  /** Is no longer in a room, and will not be by itself. */
  #abandon(entry, error) {
    this.#rooms.delete(entry.room);
    Object.assign(entry, { joined: false, asked: null });
    for (const answer of entry.waiting.splice(0)) answer.reject(error);
    this.#sends.abandon(entry.room, error);
  }

  #onJoined(frame, asked) {
    const { room } = frame;
    const answer = withMessages(frame);
    const entry = this.#rooms.get(room);
    // Other joins are those of a room that one is in, and change nothing.
    if (!entry || asked === undefined || entry.asked !== asked) return;
    const { rejoins: rejoined } = entry;
    const { missed, messages } = entry.copy.enter(frame);
    Object.assign(entry, { asked: null, joined: true, rejoins: true });
    this.#emit("joined", { ...answer, recovered: rejoined && !missed, rejoined });
    if (rejoined && missed) this.#emit("gap", { room, ...missed });
    this.#deliverAll(messages, entry, frame.epoch);
    // A handler of these events may have left the room, or ended the connection.
    if (!entry.joined) return;
    for (const { resolve } of entry.waiting.splice(0)) resolve(answer);
    this.#sends.open(room);
  }

  /** Delivers the messages of a join. The rest of what a handler cuts short comes with the next. */
  #deliverAll(messages, entry, epoch) {
    for (const message of messages) {
      epoch = message.epoch ?? epoch;
      if (!entry.joined) {
        entry.copy.rewind({ epoch, offset: message.offset - 1 });
        return;
      }
      if (isMessage(message)) this.#deliver(message, epoch);
    }
  }

  #onMessage(frame) {
    const entry = this.#current(frame.room);
    if (entry) this.#deliver(frame, entry.copy.position?.epoch);
  }

  /** News of who is in a room. One that is being joined again gets them with the answer. */
  #onNews(frame) {
    if (this.#current(frame.room)) this.#emit(frame.type, frame);
  }

  /** Moves on to the next entry of a room's sequence. Behind a hole nothing is delivered before the
   *  room is joined again: what is missing is in that answer, and what follows is sent again. */
  #isNext(frame) {
    const entry = this.#current(frame.room);
    if (!entry) return false;
    const step = entry.copy.step(frame);
    if (step === "hole") this.#enter(entry);
    if (step === "next") entry.copy.advance(frame);
    return step === "next";
  }

  /** The server has lost messages. While a join is under way, its answer says what is lost. */
  #onGap(frame) {
    const entry = this.#current(frame.room);
    if (!entry) return;
    entry.copy.skip(frame);
    this.#emit("gap", frame);
  }

  #onPutOut({ room, reason, message }) {
    const entry = this.#rooms.get(room);
    // One that is only now asked for was not meant.
    if (!entry?.rejoins) return;
    // The answer to a join under way may be that the client is in it again.
    if (entry.asked) this.#requests.request({ type: "leave", room }).catch(() => {});
    this.#abandon(entry, new ChatError("not_in_room", "You were put out of the room."));
    this.#emit("left", { room, reason, message });
  }

  #deliver(message, epoch) {
    const isOwn = message.user.id === this.user.id;
    if (isOwn && message.key !== undefined) this.#sends.seen(message, epoch);
    this.#emit("message", message);
  }

  /** All handlers get the events in one order, also those that a handler causes by a call. */
  #emit(type, detail) {
    this.#events.push(new CustomEvent(type, { detail }));
    if (this.#isDispatching) return;
    this.#isDispatching = true;
    try {
      while (this.#events.length > 0) this.dispatchEvent(this.#events.shift());
    } finally {
      this.#isDispatching = false;
    }
  }
}

/** Whether a frame has a position of its own; that of an answer is the room's. */
function isEntry({ type, id, room, offset }) {
  return room !== undefined && offset !== undefined && id === undefined && type !== "gap";
}

/** A page without frames of types that a later version has added. */
function withMessages({ messages = [], ...page }) {
  return { ...page, messages: messages.filter(isMessage) };
}

function isMessage({ type }) {
  return type === "message";
}

/** A room to be in. `joined`: it is so on this connection; `rejoins`: it was so before;
 *  `asked`: the join that is to be answered; `isKnown`: one has been sent on this connection;
 *  `waiting`: who waits for the first one. */
function newEntry(room, history) {
  const copy = new RoomCopy();
  return { room, history, copy, joined: false, rejoins: false, asked: null, isKnown: false, waiting: [] };
}

function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
