// Messages on their way to the server. In each room they go one after the other, so that a
// message that has to be sent again is never overtaken, and each under a key, so that it is
// taken once however often it is sent.

import { ChatError, deferred, pauseAfter } from "./chat-answer.js";

/** Errors after which a send may succeed when it is tried again. */
const PASSING = new Set(["broker_unavailable", "rate_limited", "internal", "timeout"]);

/** The connection is lost or about to be: the next one takes the message along. */
const LOST = new Set(["disconnected", "offline"]);

export class Sends {
  #connection;
  #limit;
  #timeoutMs;
  #onDelay;
  /** By room, oldest first. Only the first of each is ever on the wire. */
  #queues = new Map();
  #count = 0;
  /** The rooms that the client is in. */
  #open = new Set();

  /** `onDelay({room, key, error})`: a message is tried again later. */
  constructor(connection, { queueLimit = 100, sendTimeoutMs = 30_000 }, onDelay) {
    this.#onDelay = onDelay;
    this.#connection = connection;
    this.#limit = queueLimit;
    this.#timeoutMs = sendTimeoutMs;
  }

  get isFull() {
    return this.#count >= this.#limit;
  }

  /** Queues a message of a room. Resolves to its place. */
  add(frame) {
    const send = { frame, answer: deferred(), attempt: null, user: null, error: null };
    send.timer = setTimeout(() => this.#expire(send), this.#timeoutMs);
    const queue = this.#queues.get(frame.room) ?? [];
    this.#queues.set(frame.room, queue);
    queue.push(send);
    this.#count += 1;
    this.#next(frame.room);
    return send.answer.promise;
  }

  /** The client is in a room, and sends what waits for it. */
  open(room) {
    this.#open.add(room);
    this.#next(room);
  }

  /** The connection was lost, and with it the answers. */
  disconnect() {
    this.#open.clear();
    for (const [send] of this.#queues.values()) send.attempt = null;
  }

  /** A message came by: if it is one of these, it was taken, even if the answer was lost. */
  seen({ room, key, user, offset }, epoch) {
    const [send] = this.#queues.get(room) ?? [];
    if (send?.user !== user.id || send.frame.key !== key) return;
    this.#finish(send, () => send.answer.resolve({ key, offset, epoch }));
  }

  /** The client is no longer in a room. */
  abandon(room, error) {
    this.#open.delete(room);
    for (const send of this.#queues.get(room)?.slice() ?? []) this.#fail(send, error);
  }

  end(error) {
    for (const room of [...this.#queues.keys()]) this.abandon(room, error);
  }

  #next(room) {
    const [send] = this.#queues.get(room) ?? [];
    if (send && !send.attempt && this.#open.has(room)) this.#attempt(send);
  }

  async #attempt(send) {
    const attempt = (send.attempt = {});
    const user = this.#connection.welcome.user.id;
    send.user ??= user;
    if (send.user !== user) {
      // The server would not know that it was sent before.
      this.#fail(send, send.error ?? new ChatError("disconnected", "The connection was lost."));
      return;
    }
    try {
      const { offset, epoch } = await this.#connection.request(send.frame);
      const { key } = send.frame;
      this.#finish(send, () => send.answer.resolve({ key, offset, epoch }));
    } catch (error) {
      send.error = error;
      if (send.attempt !== attempt || LOST.has(error.code)) return;
      if (!PASSING.has(error.code)) {
        this.#fail(send, error);
        return;
      }
      setTimeout(() => send.attempt === attempt && this.#attempt(send), pauseAfter(error));
      const { room, key } = send.frame;
      this.#onDelay({ room, key, error });
    }
  }

  #expire(send) {
    const late = new ChatError("timeout", "The message was not taken in time.");
    this.#fail(send, send.error ?? late);
  }

  #fail(send, { code, message, retryAfterMs }) {
    const error = new ChatError(code, message, { retryAfterMs, key: send.frame.key });
    this.#finish(send, () => send.answer.reject(error));
  }

  /** Ends a send, once, and lets the next one go. */
  #finish(send, settle) {
    const { room } = send.frame;
    const queue = this.#queues.get(room);
    const index = queue?.indexOf(send) ?? -1;
    if (index < 0) return;
    clearTimeout(send.timer);
    send.attempt = null;
    queue.splice(index, 1);
    this.#count -= 1;
    if (queue.length === 0) this.#queues.delete(room);
    settle();
    this.#next(room);
  }
}
