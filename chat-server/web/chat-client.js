// A client of the chat protocol, version 1, for browsers and for any runtime with a
// WebSocket. It does not use the DOM. docs/javascript.md describes its use, chat-client.d.ts its
// types.

import { ChatError, droppable, isLost, isPassing, outcome, pauseAfter } from "./chat-answer.js";
import { Connection } from "./chat-connection.js";
import { Emitter } from "./chat-events.js";
import { bytesOf } from "./chat-limits.js";
import { MAX_HISTORY, TYPING_REPEAT_MS } from "./chat-numbers.js";
import { Membership, positionOf } from "./chat-room.js";
import { SharedRoom } from "./chat-room-handle.js";
import { Sends } from "./chat-sends.js";
import { now } from "./chat-time.js";
import { Unauthorized } from "./chat-token.js";

export { ChatError, Unauthorized };

/** The types of frames that an application receives as they are, and the known presence events; a later
 *  version of the protocol may add more. */
const NEWS = ["presence", "typing", "gap", "capabilities"];
const PRESENCE_EVENTS = ["joined", "left", "renamed", "count"];

export class ChatClient extends Emitter {
  static version = "0.1.0";

  #connection;
  #requests;
  /** What the sends of all rooms share. */
  #sending;
  /** The rooms that the application has joined, by id; a reconnect joins them again. */
  #rooms = new Map();
  /** The rooms that the application has by `room`, by name. */
  #shared = new Map();
  /** The messages that have failed, of rooms that are not shown, and their rooms. */
  #drafts = [];
  /** The event whose handlers run, and those that wait until they return. */
  #events = [];
  #debug;

  constructor(url, options = {}) {
    super();
    const { debug } = options;
    this.#debug = debug === true ? console.debug : debug;
    const onStatus = (status) => this.#onStatus(status);
    this.#connection = new Connection(url, options, onStatus, (frame) => this.#onFrame(frame));
    const { requests } = this.#connection;
    this.#requests = requests;
    const onDelay = (delay) => this.#emit("delayed", delay);
    this.#sending = { requests, options: this.#connection.options, onDelay, count: 0, bytes: 0 };
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
    return this.#connection.options.resume;
  }

  /** Whether a `send` would be refused with `queue_full`. */
  get isFull() {
    const { count, bytes, options } = this.#sending;
    return count >= options.queueLimit || bytes >= options.queueBytes;
  }

  /** How many messages wait to be sent, or for their answers. */
  get queued() {
    return this.#sending.count;
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

  renew() {
    this.#connection.renew();
  }

  rename(name) {
    return outcome((resolve) => resolve(this.#connection.rename(name)));
  }

  join(room, { history, since } = {}) {
    return outcome((resolve, reject) => {
      const frame = { type: "join", room, history };
      this.#connection.textOf(frame, true);
      const known = this.#rooms.get(room);
      if (known?.isJoined) {
        resolve(this.#requests.ask(frame, withMessages));
        return;
      }
      const entry = known ?? new Membership(room, since, history, new Sends(this.#sending));
      entry.wait(resolve, reject);
      this.#rooms.set(room, entry);
      if (this.#connection.isOnline && !known) this.#enter(entry);
    });
  }

  room(name, options = {}) {
    if (typeof name !== "string") throw new TypeError("A name is text.");
    const onRelease = () => {
      this.#shared.delete(name);
      this.leave(name);
    };
    const room =
      this.#shared.get(name) ?? new SharedRoom(this, this.#connection, name, options, this.#drafts, onRelease);
    this.#shared.set(name, room);
    return room.hold();
  }

  leave(room) {
    return outcome((resolve, reject) => {
      const entry = this.#rooms.get(room);
      // The server does not know of a join that was not sent.
      const isKnown = entry?.isKnown;
      if (entry) this.#abandon(entry);
      if (isKnown) this.#requests.request({ type: "leave", room }, { resolve: () => resolve(), reject });
      else resolve();
    });
  }

  send(room, message, { data, key = randomKey() } = {}) {
    const sent = this.#send({ type: "send", room, message, data, key }).catch((error) => {
      throw new ChatError(error.code, error.message, { ...error, key });
    });
    return Object.assign(droppable(sent), { key });
  }

  direct(to, message, { data } = {}) {
    return this.#requests.ask({ type: "direct", to, message, data });
  }

  typing(room, typing) {
    const entry = this.#rooms.get(room);
    if (!entry?.isJoined || entry.can?.includes("send") === false) return;
    const isRepeat = typing ? now() - entry.typedAt < TYPING_REPEAT_MS : entry.typedAt === -Infinity;
    if (isRepeat || !this.#requests.post({ type: "typing", room, typing })) return;
    entry.typedAt = typing ? now() : -Infinity;
  }

  members(room) {
    return this.#requests.ask({ type: "members", room });
  }

  history(room, options) {
    return this.#requests.ask({ ...options, type: "history", room }, withMessages);
  }

  kick(room, user, reason) {
    return this.#requests.ask({ type: "kick", room, user, reason });
  }

  ban(room, user, options = {}) {
    const { seconds, reason, ...others } = options;
    // What is no number of seconds must not become a ban without an end. JSON has `null` for a NaN.
    const isMistaken = typeof options !== "object" || Object.keys(others).length > 0 || Number.isNaN(seconds);
    return this.#requests.ask({ type: "ban", room, user, seconds: isMistaken ? "" : seconds, reason });
  }

  unban(room, user) {
    return this.#requests.ask({ type: "unban", room, user });
  }

  async #send(frame) {
    const text = this.#connection.textOf(frame, true);
    const entry = this.#rooms.get(frame.room);
    if (!entry) throw new ChatError("not_in_room");
    if (this.isFull) throw new ChatError("queue_full");
    return entry.sends.add(frame, bytesOf(text));
  }

  /** Takes a frame that answers nothing. */
  #onFrame(frame) {
    const { type, room } = frame;
    const entry = this.#rooms.get(room);
    if (["direct", "undelivered", "goodbye"].includes(type)) this.#emit(type, frame);
    else if (type === "error") this.#emit(type, ChatError.fromFrame(frame));
    else if (type === "left") this.#onPutOut(frame);
    // While it is being joined again, the answer has what there is.
    else if (entry?.isJoined && !entry.asked) this.#onNews(entry, frame);
  }

  /** Takes a frame of a room. */
  #onNews(entry, frame) {
    const { type, offset, event } = frame;
    if (type === "gap") {
      entry.position = positionOf(frame);
    } else if (type === "capabilities") {
      entry.can = frame.can;
    } else if (offset !== undefined) {
      // It is an entry of the room's sequence, whatever its type: a later version can add kinds, and
      // this one finds no hole where they are.
      const step = entry.step(frame);
      // Behind a hole nothing is delivered before the room is joined again: what is missing is in
      // that answer, and what follows is sent again.
      if (step === "hole") this.#enter(entry);
      if (step !== "next") return;
    }
    if (type === "message") this.#deliver(entry, frame, entry.position?.epoch);
    else if (NEWS.includes(type) && (type !== "presence" || PRESENCE_EVENTS.includes(event))) this.#emit(type, frame);
  }

  #onStatus(status) {
    const { state, error } = status;
    const isOnline = state === "online";
    const { isOtherUser, isOtherPerson } = this.#connection;
    if (isOnline && isOtherPerson) this.#drafts.length = 0;
    for (const entry of this.#rooms.values()) {
      if (isOnline && isOtherUser) entry.sends.becomeOther(isOtherPerson);
      if (isOnline) this.#enter(entry);
      else entry.close(error);
      // A failed join is not repeated by a later connection.
      if (error && !entry.rejoins) this.#rooms.delete(entry.room);
    }
    this.#emit("state", status);
  }

  /** Joins a room. The answer has the messages after the position of its copy; where the room cannot
   *  continue there, the latest ones, as many as an answer takes. */
  #enter(entry) {
    const { room, position, history, rejoins } = entry;
    const asked = { type: "join", room, since: position, history: position ? MAX_HISTORY : history };
    const isWanted = () => entry.asked === asked;
    entry.asked = asked;
    this.#requests.request(asked, {
      isWanted,
      onSent: () => (entry.isKnown = true),
      resolve: (joined) => isWanted() && this.#onJoined(entry, joined),
      reject: (error) => {
        if (!isWanted() || isLost(error)) return;
        if (isPassing(error)) {
          entry.retry = setTimeout(() => isWanted() && this.#enter(entry), pauseAfter(error));
        } else {
          this.#abandon(entry, error);
          if (rejoins) this.#emit("refused", { room, error });
        }
      },
    });
  }

  /** Removes a room, so that a reconnect does not join it. */
  #abandon(entry, error = new ChatError("not_in_room")) {
    this.#rooms.delete(entry.room);
    entry.close(error);
  }

  #onJoined(entry, frame) {
    const { room, rejoins: rejoined } = entry;
    const answer = withMessages(frame);
    // Before the first join only a position that an earlier client saved.
    const continues = rejoined || entry.position !== undefined;
    const { missed, messages } = entry.enter(frame);
    this.#emit("joined", { ...answer, recovered: continues && !missed, rejoined });
    if (continues && missed) this.#emit("gap", { room, ...missed });
    this.#deliverAll(messages, entry, frame.epoch);
    // A handler of these events may have left the room, or ended the connection.
    if (entry.isJoined) entry.open(answer);
  }

  /** Delivers the messages of a join. If a handler leaves the room, the next join delivers the rest. */
  #deliverAll(messages, entry, epoch) {
    for (const message of messages) {
      epoch = message.epoch ?? epoch;
      if (!entry.isJoined) {
        entry.position = { epoch, offset: message.offset - 1 };
        return;
      }
      if (isMessage(message)) this.#deliver(entry, message, epoch);
    }
  }

  #onPutOut(frame) {
    const entry = this.#rooms.get(frame.room);
    // A room whose first join was just sent is not the one that the server means.
    if (!entry?.rejoins) return;
    // A join under way may put the client into the room again.
    if (entry.asked) this.#requests.request({ type: "leave", room: frame.room }, {});
    this.#abandon(entry);
    this.#emit("left", frame);
  }

  #deliver(entry, message, epoch) {
    // With its position an application continues later. A room without history has none.
    if (epoch) message.epoch = epoch;
    if (message.user.id === this.user.id) entry.sends.seen(message);
    this.#emit("message", message);
  }

  /** All handlers receive the events in one order, including events that a handler causes. */
  #emit(type, detail) {
    if (this.#debug) this.#debug(`chat ${type} ${JSON.stringify(detail)}`);
    if (this.#events.push(new CustomEvent(type, { detail })) > 1) return;
    for (; this.#events.length > 0; this.#events.shift()) {
      const [event] = this.#events;
      // The rooms come first: handlers find them as they are after the event.
      for (const target of [...this.#shared.values(), this]) target.dispatchEvent(event);
    }
  }
}

/** A page without frames of types that a later version has added. */
function withMessages({ messages = [], ...page }) {
  return { ...page, messages: messages.filter(isMessage) };
}

function isMessage({ type }) {
  return type === "message";
}

function randomKey() {
  return crypto.getRandomValues(new Uint32Array(3)).join("-");
}
