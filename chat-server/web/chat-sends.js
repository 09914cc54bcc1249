// Messages on their way to the server. In each room they go one after the other, so that a
// message that has to be sent again is never overtaken, and each under a key, so that it is
// taken once however often it is sent.

import { ChatError, deferred, errorOfSend, isCertain, isPassing, pauseAfter } from "./chat-answer.js";
import { bytesOf } from "./chat-limits.js";
import { clearDeadline, elapsedSince, moment, now, setDeadline } from "./chat-time.js";

/** How long after its first attempt a message may be sent again: servers know its key for five
 *  minutes, and would take it for another one then. */
const KNOWN_MS = 4.5 * 60_000;

/** The connection is lost or about to be: the next one takes the message along. */
const LOST = new Set(["disconnected", "offline"]);

export class Sends {
  #requests;
  #user;
  #options;
  #onDelay;
  /** By room: its messages, oldest first, of which only the first is ever on the wire; `since`
   *  when they move: the others are not late before; and whether that time was renewed since,
   *  `isRenewed`, because the process slept. Of a message `unknown` is the first attempt that a
   *  server may have taken without saying so. */
  #queues = new Map();
  #count = 0;
  #bytes = 0;
  /** The rooms that the client is in. */
  #open = new Set();

  /** `onDelay({room, key, error})`: a message is tried again later. */
  constructor({ requests, options }, onDelay) {
    this.#requests = requests;
    this.#options = options;
    this.#onDelay = onDelay;
  }

  get isFull() {
    const { queueLimit, queueBytes } = this.#options;
    return this.#count >= queueLimit || this.#bytes >= queueBytes;
  }

  get count() {
    return this.#count;
  }

  /** Queues a message of a room. Resolves to its place. */
  add(frame) {
    const addedAt = now();
    const bytes = bytesOf(JSON.stringify(frame));
    const send = { frame, bytes, answer: deferred(), addedAt, attempt: null, unknown: null, sentAt: null, error: null };
    const queue = this.#queues.get(frame.room) ?? { room: frame.room, sends: [], since: addedAt };
    this.#queues.set(frame.room, queue);
    queue.sends.push(send);
    this.#count += 1;
    this.#bytes += bytes;
    if (queue.sends.length === 1) this.#next(queue);
    return send.answer.promise;
  }

  /** The client is in a room, and sends what waits for it. */
  open(room) {
    this.#open.add(room);
    const queue = this.#queues.get(room);
    if (queue) this.#next(queue);
  }

  /** The connection was lost, and with it the answers. */
  disconnect() {
    this.#open.clear();
    for (const queue of this.#queues.values()) {
      const [send] = queue.sends;
      if (send.attempt?.isOnWire) send.unknown ??= send.attempt;
      send.attempt = null;
      this.#watch(queue);
    }
  }

  /** A connection is welcomed as this user. To another one the keys mean nothing: what may have
   *  been taken would be taken twice. `isNamed`: a token names the user, who is another person. */
  becomeUser(id, isNamed) {
    const hasChanged = this.#user !== undefined && this.#user !== id;
    this.#user = id;
    if (!hasChanged) return;
    for (const queue of [...this.#queues.values()]) {
      if (isNamed) this.#fail(queue, queue.sends.length, () => new ChatError("other_user"));
      // Only the first of a room was ever on the wire.
      else if (queue.sends[0].unknown) this.#fail(queue, 1, () => new ChatError("outcome_unknown"));
    }
  }

  /** The client received a message of its own: if it is one of these, it was taken, even if the
   *  answer was lost. */
  seen({ room, key, offset }, epoch) {
    const queue = this.#queues.get(room);
    const send = queue?.sends.find(({ frame }) => frame.key === key);
    if (send) this.#taken(queue, send, { offset, epoch });
  }

  /** The client is no longer in a room. */
  abandon(room, error) {
    this.#open.delete(room);
    const queue = this.#queues.get(room);
    if (queue) this.#fail(queue, queue.sends.length, () => error);
  }

  end(error) {
    for (const room of [...this.#queues.keys()]) this.abandon(room, error);
  }

  /** Sends the first message of a room if it may be sent, else watches its deadline. */
  #next(queue) {
    const [send] = queue.sends;
    if (send && !send.attempt && this.#open.has(queue.room)) this.#attempt(queue, send);
    else this.#watch(queue);
  }

  async #attempt(queue, send) {
    if (send.sentAt && elapsedSince(send.sentAt) > KNOWN_MS) {
      this.#fail(queue, 1, late);
      return;
    }
    const attempt = (send.attempt = { isDue: true, isOnWire: false });
    const isWanted = () => send.attempt === attempt;
    const onSent = () => {
      Object.assign(attempt, { isDue: false, isOnWire: true });
      if (send.sentAt === null) moved(queue);
      send.sentAt ??= moment();
      this.#watch(queue);
    };
    this.#watch(queue);
    try {
      this.#taken(queue, send, await this.#requests.request(send.frame, { isWanted, onSent }));
    } catch (error) {
      send.error = error;
      attempt.isOnWire = false;
      if (error.code === "too_large") {
        // The connection is over, and yet it is known that this attempt has failed.
        if (send.unknown === attempt) send.unknown = null;
      } else if (!isWanted() || LOST.has(error.code)) {
        return;
      }
      if (!isPassing(error)) {
        if (queue.sends[0] === send) this.#fail(queue, 1, () => error);
        return;
      }
      if (!isCertain(error)) send.unknown ??= attempt;
      setTimeout(() => isWanted() && this.#attempt(queue, send), pauseAfter(error));
      const { room, key } = send.frame;
      this.#onDelay({ room, key, error });
    }
  }

  /** Waits until a room's first message is late, which it is not while it waits for its turn. */
  #watch(queue) {
    clearDeadline(queue.deadline);
    const [send] = queue.sends;
    if (!send || send.attempt?.isDue) return;
    const expire = () => this.#expire(queue);
    // Once: in a page that is hidden for long every timer is late.
    const renew = () => {
      Object.assign(queue, { since: now(), isRenewed: true });
      this.#watch(queue);
    };
    const ms = Math.max(0, Math.ceil(this.#lateAt(queue, send) - now()));
    queue.deadline = setDeadline(ms, expire, queue.isRenewed ? expire : renew);
  }

  #lateAt({ since }, { addedAt }) {
    return Math.max(addedAt, since) + this.#options.sendTimeoutMs;
  }

  /** Those behind the first that is late may be so, too. */
  #expire(queue) {
    const inTime = queue.sends.findIndex((send) => this.#lateAt(queue, send) > now());
    this.#fail(queue, inTime < 0 ? queue.sends.length : inTime, late);
  }

  #taken(queue, send, { offset, epoch }) {
    const index = queue.sends.indexOf(send);
    if (index < 0) return;
    const { key } = send.frame;
    moved(queue);
    this.#remove(queue, index, 1);
    send.answer.resolve({ key, offset, epoch });
    this.#next(queue);
  }

  /** Fails the first `count` messages of a room, each with the error that `why(send)` returns,
   *  unless it may have been taken. */
  #fail(queue, count, why) {
    const isUnknown = ({ unknown, attempt }) => unknown !== null || attempt?.isOnWire;
    const unknown = queue.sends.slice(0, count).map(isUnknown);
    for (const [index, send] of this.#remove(queue, 0, count).entries()) {
      const error = unknown[index] ? new ChatError("outcome_unknown") : why(send);
      send.answer.reject(errorOfSend(error, send.frame.key));
    }
    this.#next(queue);
  }

  #remove(queue, index, count) {
    const removed = queue.sends.splice(index, count);
    for (const send of removed) {
      send.attempt = null;
      this.#count -= 1;
      this.#bytes -= send.bytes;
    }
    if (queue.sends.length === 0) this.#queues.delete(queue.room);
    return removed;
  }
}

/** The messages of a room move: one has left for the first time, or was taken. */
function moved(queue) {
  Object.assign(queue, { since: now(), isRenewed: false });
}

/** Why a message that was not taken in time has failed. */
function late({ error }) {
  return error ?? new ChatError("timeout");
}
