// A client of the chat protocol, version 1, for browsers and for any runtime with a
// WebSocket. It touches no page: docs/web-client.md tells how to use it, chat-client.d.ts
// has its types.

import { ChatError, Connection, deferred } from "./chat-connection.js";

export { ChatError };

/** How often the same typing state is worth telling. */
const TYPING_REPEAT_MS = 2_000;

/** The pause before a room is tried again that could not be joined for lack of an answer. */
const REJOIN_MS = 1_000;

export class ChatClient extends EventTarget {
  #connection;
  #queueLimit;
  /** Rooms to be in, by id; a reconnect joins them again. */
  #rooms = new Map();
  /** Sends without an answer, oldest first. */
  #sends = [];

  constructor(url, options = {}) {
    super();
    this.#queueLimit = options.queueLimit ?? 100;
    this.#connection = new Connection(url, options, {
      changed: (detail) => this.#emit("state", detail),
      frame: (frame) => this.#onFrame(frame),
      welcomed: () => this.#rooms.forEach((entry) => this.#enter(entry)),
      lost: () => this.#onLost(),
      ended: (error) => this.#onEnded(error),
    });
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

  rename(name) {
    this.#connection.name = name;
    return this.#connection.reconnect();
  }

  join(room, { history } = {}) {
    const known = this.#rooms.get(room);
    const entry = known ?? { room, history, joined: false, rejoins: false, waiting: [] };
    this.#rooms.set(room, entry);
    const answer = deferred();
    entry.waiting.push(answer);
    if (this.#connection.isOnline && (!known || entry.joined)) this.#enter(entry);
    return answer.promise;
  }

  async leave(room) {
    const entry = this.#rooms.get(room);
    if (!entry) return;
    this.#abandon(entry, new ChatError("not_in_room", "The room was left."));
    if (this.#connection.isOnline) await this.#connection.request({ type: "leave", room });
  }

  send(room, message, { data, key = randomKey() } = {}) {
    const refuse = (code, text) => Promise.reject(new ChatError(code, text, { key }));
    const limit = this.limits?.message_bytes ?? Infinity;
    if (!this.#rooms.has(room)) {
      return refuse("not_in_room", "Join the room first.");
    }
    if (new TextEncoder().encode(message).length > limit) {
      return refuse("message_too_long", `A message has at most ${limit} bytes.`);
    }
    if (this.#sends.length >= this.#queueLimit) {
      return refuse("queue_full", "Too many messages wait to be sent.");
    }
    const frame = { type: "send", room, message, data, key };
    const send = { frame, answer: deferred(), onTheWire: false };
    this.#sends.push(send);
    this.#flush();
    return send.answer.promise;
  }

  direct(to, message, { data } = {}) {
    return this.#connection.request({ type: "direct", to, message, data });
  }

  typing(room, typing) {
    const entry = this.#rooms.get(room);
    if (!entry?.joined) return;
    const { typing: before = false, at = 0 } = entry.typing ?? {};
    const now = Date.now();
    if (before === typing && (!typing || now - at < TYPING_REPEAT_MS)) return;
    entry.typing = { typing, at: now };
    this.#connection.post({ type: "typing", room, typing });
  }

  members(room) {
    return this.#connection.request({ type: "members", room });
  }

  history(room, { before, limit } = {}) {
    return this.#connection.request({ type: "history", room, before, limit });
  }

  #onFrame(frame) {
    switch (frame.type) {
      case "joined":
        return this.#onJoined(frame);
      case "message":
        return this.#onMessage(frame);
      case "gap":
        return this.#onGap(frame);
      case "presence":
      case "typing":
      case "direct":
      case "goodbye":
        return this.#emit(frame.type, frame);
      case "error":
        if (frame.id === undefined) this.#emit("error", ChatError.fromFrame(frame));
    }
  }

  #onLost() {
    for (const entry of this.#rooms.values()) entry.joined = false;
    for (const send of this.#sends) send.onTheWire = false;
  }

  #onEnded(error) {
    for (const { waiting } of this.#rooms.values()) {
      for (const answer of waiting.splice(0)) answer.reject(error);
    }
    for (const send of [...this.#sends]) this.#finish(send, (answer) => answer.reject(error));
  }

  // Rooms.

  async #enter(entry) {
    const { room, joined, rejoins, position } = entry;
    const { welcome } = this.#connection;
    const since = joined ? undefined : position;
    const history = rejoins ? undefined : entry.history;
    try {
      await this.#connection.request({ type: "join", room, since, history });
    } catch (error) {
      const isWanted = () =>
        this.#rooms.get(room) === entry && this.#connection.welcome === welcome && !entry.joined;
      if (!isWanted() || error.code === "disconnected" || error.code === "offline") return;
      if (error.code === "timeout" || error.retryAfterMs !== undefined) {
        const pause = (error.retryAfterMs ?? REJOIN_MS) * (1 + Math.random());
        setTimeout(() => isWanted() && this.#enter(entry), pause);
      } else {
        this.#abandon(entry, error);
        if (rejoins) this.#emit("refused", { room, error });
      }
    }
  }

  /** Is no longer in a room, and will not be by itself. */
  #abandon(entry, error) {
    this.#rooms.delete(entry.room);
    for (const answer of entry.waiting.splice(0)) answer.reject(error);
    const theirs = this.#sends.filter((send) => send.frame.room === entry.room);
    for (const send of theirs) this.#finish(send, (answer) => answer.reject(error));
  }

  #onJoined(frame) {
    const { room, epoch, recovered, messages = [] } = frame;
    const entry = this.#rooms.get(room);
    if (!entry) return;
    const known = entry.position;
    entry.position = positionOf(frame);
    if (!entry.joined) {
      const rejoined = entry.rejoins;
      entry.joined = entry.rejoins = true;
      this.#emit("joined", { ...frame, rejoined });
      if (rejoined && !recovered) this.#emit("gap", { room, ...entry.position });
      for (const message of messages) {
        const isKnown = known && known.epoch === epoch && message.offset <= known.offset;
        if (!isKnown) this.#deliver({ ...message, room });
      }
    }
    for (const answer of entry.waiting.splice(0)) answer.resolve(frame);
    this.#flush();
  }

  #onMessage(frame) {
    const entry = this.#rooms.get(frame.room);
    if (!entry) return;
    const { position } = entry;
    if (position && frame.offset !== undefined) {
      // The first message of a sequence says which one it is.
      if (frame.epoch && frame.epoch !== position.epoch) {
        Object.assign(position, { epoch: frame.epoch, offset: 0 });
      }
      if (frame.offset <= position.offset) return;
      if (frame.offset > position.offset + 1) this.#emit("gap", { room: frame.room, ...position });
      position.offset = frame.offset;
    }
    this.#deliver(frame);
  }

  #onGap(frame) {
    const entry = this.#rooms.get(frame.room);
    if (!entry) return;
    entry.position = positionOf(frame);
    this.#emit("gap", frame);
  }

  #deliver(frame) {
    if (frame.key !== undefined && frame.user.id === this.user?.id) this.#onOwn(frame);
    this.#emit("message", frame);
  }

  // Sends.

  /** Sends what waits for its room. What was lost with a connection goes out again, under
   *  the same key. */
  #flush() {
    for (const send of this.#sends) {
      if (!send.onTheWire && this.#rooms.get(send.frame.room)?.joined) this.#dispatch(send);
    }
  }

  async #dispatch(send) {
    const { room, key } = send.frame;
    send.onTheWire = true;
    try {
      const { offset, epoch } = await this.#connection.request(send.frame);
      const position = this.#rooms.get(room)?.position;
      if (position?.epoch === "" && epoch) position.epoch = epoch;
      this.#finish(send, (answer) => answer.resolve({ key, offset, epoch }));
    } catch (error) {
      if (error.code === "disconnected" || error.code === "offline") return;
      error.key = key;
      this.#finish(send, (answer) => answer.reject(error));
    }
  }

  /** One's own message came back: it was taken, even if the answer was lost. */
  #onOwn({ room, key, offset }) {
    const send = this.#sends.find(({ frame }) => frame.key === key && frame.room === room);
    const epoch = this.#rooms.get(room)?.position?.epoch;
    if (send) this.#finish(send, (answer) => answer.resolve({ key, offset, epoch }));
  }

  #finish(send, settle) {
    const index = this.#sends.indexOf(send);
    if (index < 0) return;
    this.#sends.splice(index, 1);
    settle(send.answer);
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

function positionOf({ epoch, offset }) {
  return offset === undefined ? undefined : { epoch, offset };
}

function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
