// A client of the chat protocol, version 1, for browsers and for any runtime with a
// WebSocket. It does not use the DOM. docs/javascript.md describes its use, chat-client.d.ts its
// types.

import { ChatError, deferred, droppable, errorOfSend, isPassing, pauseAfter, rejected } from "./chat-answer.js";
import { Connection } from "./chat-connection.js";
import { Emitter } from "./chat-events.js";
import { nameRefusal, refusalOf } from "./chat-limits.js";
import { RoomCopy } from "./chat-room.js";
import { SharedRoom } from "./chat-room-handle.js";
import { Sends } from "./chat-sends.js";
import { now } from "./chat-time.js";
import { Unauthorized } from "./chat-token.js";

export { ChatError, Unauthorized };

/** The known presence events; a later version of the protocol may add more. */
const PRESENCE_EVENTS = new Set(["joined", "left", "renamed", "count"]);

/** The shortest time between two frames with the same typing state. */
const TYPING_REPEAT_MS = 2_000;

/** Messages that the answer to a join has at most. */
const MAX_HISTORY = 256;

export class ChatClient extends Emitter {
  static version = "0.1.0";

  #connection;
  #requests;
  #sends;
  /** The rooms that the application has joined, by id; a reconnect joins them again. */
  #rooms = new Map();
  /** The rooms that the application has by `room`, by name. */
  #shared = new Map();
  /** Events that wait until the handlers of earlier ones return. */
  #events = [];
  #isDispatching = false;
  #debug;

  constructor(url, options = {}) {
    super();
    const { debug } = options;
    this.#debug = debug === true ? (line) => console.debug(line) : debug || undefined;
    this.#connection = new Connection(url, options, {
      changed: (detail) => this.#emit("state", detail),
      frame: (frame, asked) => this.#onFrame(frame, asked),
      welcomed: () => this.#onWelcomed(),
      lost: () => this.#onLost(),
      ended: (error) => this.#onEnded(error),
    });
    this.#requests = this.#connection.requests;
    this.#sends = new Sends(this.#connection, (delay) => this.#emit("delayed", delay));
  }

  get state() {
    return this.#connection.state;
  }

  get status() {
    return this.#connection.status;
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

  join(room, { history, since } = {}) {
    const refusal = this.#closedRefusal ?? refusalOf({ room }, this.limits);
    if (refusal) return rejected(refusal);
    const known = this.#rooms.get(room);
    if (known?.joined) return droppable(this.#requests.ask({ type: "join", room, history }).then(withMessages));
    const entry = known ?? newEntry(room, history, since);
    this.#rooms.set(room, entry);
    const answer = deferred();
    entry.waiting.push(answer);
    if (this.#connection.isOnline && !known) this.#enter(entry);
    return answer.promise;
  }

  room(name, options = {}) {
    if (typeof name !== "string") throw new TypeError("The name of a room is text.");
    const released = () => this.#shared.delete(name);
    const room = this.#shared.get(name) ?? new SharedRoom(this, this.#connection, name, options, released);
    this.#shared.set(name, room);
    return room.hold();
  }

  leave(room) {
    return droppable(this.#leave(room));
  }

  send(room, message, { data, key = randomKey() } = {}) {
    const frame = { type: "send", room, message, data, key };
    const refusal = this.#sendRefusal(frame);
    const sent = refusal ? rejected(errorOfSend(refusal, key)) : this.#sends.add(frame);
    return Object.assign(sent, { key });
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

  kick(room, user, reason) {
    return this.#requests.ask({ type: "kick", room, user, reason });
  }

  ban(room, user, { seconds, reason } = {}) {
    return this.#requests.ask({ type: "ban", room, user, seconds, reason });
  }

  unban(room, user) {
    return this.#requests.ask({ type: "unban", room, user });
  }

  get #closedRefusal() {
    return this.state === "closed" ? this.#connection.refusal : undefined;
  }

  #sendRefusal(frame) {
    if (this.#closedRefusal) return this.#closedRefusal;
    if (!this.#rooms.has(frame.room)) return new ChatError("not_in_room");
    return refusalOf(frame, this.limits) ?? (this.#sends.isFull ? new ChatError("queue_full") : undefined);
  }

  async #leave(room) {
    const entry = this.#rooms.get(room);
    if (!entry) return;
    this.#abandon(entry, new ChatError("not_in_room"));
    // The server does not know of a join that was not sent.
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
    this.#sends.becomeUser(this.user.id, this.#connection.hasToken);
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
      // A failed join is not repeated by a later connection.
      if (!rejoins) this.#rooms.delete(room);
    }
    this.#sends.end(error);
  }

  /** Joins a room. The answer has the messages after the position of its copy. */
  async #enter(entry) {
    const { room, history, rejoins, copy } = entry;
    // A client that was in the room asks for missed messages, not for the latest ones.
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

  /** Removes a room, so that a reconnect does not join it. */
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
    // A join of a room that the client is in changes nothing.
    if (!entry || asked === undefined || entry.asked !== asked) return;
    const { rejoins: rejoined } = entry;
    // Before the first join only a position that an earlier client saved.
    const continues = rejoined || entry.copy.position !== undefined;
    const { missed, messages } = entry.copy.enter(frame);
    Object.assign(entry, { asked: null, joined: true, rejoins: true });
    this.#emit("joined", { ...answer, recovered: continues && !missed, rejoined });
    if (continues && missed) this.#emit("gap", { room, ...missed });
    this.#deliverAll(messages, entry, frame.epoch);
    // A handler of these events may have left the room, or ended the connection.
    if (!entry.joined) return;
    for (const { resolve } of entry.waiting.splice(0)) resolve(answer);
    this.#sends.open(room);
  }

  /** Delivers the messages of a join. If a handler leaves the room, the next join delivers the rest. */
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

  /** Delivers a presence event, unless the room is being joined again: the answer has the members. */
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

  /** Handles a `gap`. During a join it is ignored: the answer says which messages are lost. */
  #onGap(frame) {
    const entry = this.#current(frame.room);
    if (!entry) return;
    entry.copy.skip(frame);
    this.#emit("gap", frame);
  }

  #onPutOut({ room, reason, message, until }) {
    const entry = this.#rooms.get(room);
    // A room whose first join was just sent is not the one that the server means.
    if (!entry?.rejoins) return;
    // A join under way may put the client into the room again.
    if (entry.asked) this.#requests.request({ type: "leave", room }).catch(() => {});
    this.#abandon(entry, new ChatError("not_in_room"));
    this.#emit("left", { room, reason, message, until });
  }

  #deliver(message, epoch) {
    const isOwn = message.user.id === this.user.id;
    if (isOwn && message.key !== undefined) this.#sends.seen(message, epoch);
    this.#emit("message", message);
  }

  /** All handlers receive the events in one order, including events that a handler causes. */
  #emit(type, detail) {
    this.#debug?.(`chat ${type} ${JSON.stringify(detail)}`);
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
function newEntry(room, latest, since) {
  const copy = new RoomCopy(since);
  // Where the room cannot continue at `since`, the answer has the latest messages: as many as it takes.
  const history = since ? MAX_HISTORY : latest;
  return { room, history, copy, joined: false, rejoins: false, asked: null, isKnown: false, waiting: [] };
}

function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
