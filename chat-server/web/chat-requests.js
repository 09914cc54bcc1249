// Requests and their answers, on one connection after another: which frame leaves when, at the
// rates of the server's `welcome`, and which request an answer belongs to.

import { ChatError, outcome } from "./chat-answer.js";
import { bytesOf } from "./chat-limits.js";
import { ID_BYTES, MOST_REQUESTS, MOST_UNANSWERED, UNANSWERED_BYTES } from "./chat-numbers.js";
import { paceOf } from "./chat-pace.js";
import { clearDeadline, now, setDeadline } from "./chat-time.js";

/** What the server has to publish. */
const MESSAGES = ["send", "direct"];

/** A server reads these at a rate that `welcome` does not have, and what is behind them as late. */
const SANCTIONS = ["kick", "ban", "unban"];

/** The types of the answers to requests; all others are answered with `ok`. */
const ANSWERS = {
  hello: "welcome",
  join: "joined",
  leave: "left",
  members: "members",
  history: "history",
  ping: "pong",
};

export class Requests {
  #connection;
  /** Of the present connection. */
  #pace = paceOf();
  /** Requests that wait for their turns, in order. */
  #outbox = new Set();
  /** Requests on the wire, by id. */
  #unanswered = new Map();
  #lastId = 0;
  #flushTimer;

  /**
   * `connection`: `textOf(frame, isEarly)`, which throws if a frame cannot be sent; `write(text)`,
   * which returns whether there was a connection to write to; `watch()`, called when a request
   * has left, and when one was answered; and the `options` of the client.
   */
  constructor(connection) {
    this.#connection = connection;
  }

  /** The rates of the connection, of which so many bytes are spent for the `hello`. */
  limit(limits, bytes) {
    this.#pace = paceOf(limits);
    this.#pace.spend(bytes);
  }

  /** Sends a request of the application, of whose requests not too many may wait. Resolves to what
   *  `read` makes of the answer. */
  ask(frame, read = (answer) => answer) {
    return outcome((resolve, reject) => {
      if (this.#outbox.size + this.#unanswered.size >= MOST_REQUESTS) throw new ChatError("queue_full");
      this.request(frame, { resolve: (answer) => resolve(read(answer)), reject });
    });
  }

  /** Sends a frame when it is its turn, or at once if it `isUrgent`. Calls
   *  `resolve(answer, bytes)`, with the size of the request, or `reject(error)`, and `onSent` when it
   *  leaves; it does not if it is not `isWanted` any more. */
  request(frame, answer, isUrgent) {
    const request = { resolve() {}, reject() {}, onSent() {}, isWanted: () => true, ...answer, frame };
    try {
      request.text = this.#connection.textOf(frame, isUrgent);
    } catch (error) {
      // Later, as all errors: a whole queue may be refused, one after the other.
      queueMicrotask(() => request.reject(error));
      return;
    }
    request.bytes = bytesOf(request.text) + ID_BYTES;
    if (isUrgent) {
      this.#send(request);
    } else {
      this.#outbox.add(request);
      this.flush();
    }
  }

  /** Sends a frame that is not answered, if it need not wait. Returns whether it was sent. */
  post(frame) {
    const text = JSON.stringify(frame);
    const isTurn = this.#outbox.size === 0 && this.#pace.wait(bytesOf(text)) === 0;
    return isTurn && this.#write(text);
  }

  /** Sends what may leave now. Joins that their own rate holds back are passed over, and so is what
   *  waits for answers; all others wait for the first, however large. */
  flush() {
    clearTimeout(this.#flushTimer);
    let wait = Infinity;
    for (const request of this.#outbox) {
      if (this.#unanswered.size >= MOST_UNANSWERED) break;
      const { frame, bytes } = request;
      const joinWait = frame.type === "join" ? this.#pace.joins.wait(1) : 0;
      const turnWait = joinWait || this.#pace.wait(bytes);
      if (!request.isWanted()) {
        this.#outbox.delete(request);
      } else if (this.#fits(request)) {
        if (turnWait === 0) {
          this.#outbox.delete(request);
          this.#send(request);
        } else {
          wait = Math.min(wait, turnWait);
          if (joinWait === 0) break;
        }
      }
    }
    if (wait < Infinity) this.#flushTimer = setTimeout(() => this.flush(), Math.ceil(wait));
  }

  /** Takes a frame of the server. Returns whether it has the id of a request. One of another type
   *  than the request's answer is none, and no other will be sent: the time of the request is over. */
  answer(frame) {
    const request = this.#take(frame.id);
    if (!request) return false;
    const { type } = request.frame;
    if (frame.type === (ANSWERS[type] ?? "ok")) request.resolve(frame, request.bytes);
    else request.reject(frame.type === "error" ? ChatError.fromFrame(frame) : new ChatError("timeout"));
    this.#connection.watch();
    this.flush();
    return true;
  }

  /** When the oldest request that is not answered has left; without one, `Infinity`. */
  get unansweredSince() {
    const [oldest] = this.#unanswered.values();
    return oldest?.sentAt ?? Infinity;
  }

  /** The server has closed the connection with 1009, which does not name the frame that was too
   *  large. Only the largest message fails; the other sends go out again under their keys. */
  failLargest() {
    const [largest] = this.#unansweredOf(MESSAGES).sort((a, b) => b.bytes - a.bytes);
    this.#take(largest?.id)?.reject(new ChatError("too_large"));
  }

  /** The connection is over; the next one begins without limits. */
  disconnect() {
    clearTimeout(this.#flushTimer);
    this.#pace = paceOf();
    const lost = new ChatError("disconnected");
    for (const id of this.#unanswered.keys()) this.#take(id).reject(lost);
    // They have not left, so nothing about them is unknown.
    for (const { reject } of this.#outbox) reject(new ChatError("offline"));
    this.#outbox.clear();
  }

  /** The requests of these types that are unanswered. */
  #unansweredOf(types) {
    return [...this.#unanswered.values()].filter(({ frame }) => types?.includes(frame.type));
  }

  /** Whether one more request may be unanswered: one sanction, so many messages and bytes of them, and
   *  any number of others. */
  #fits({ frame, bytes }) {
    const types = [MESSAGES, SANCTIONS].find((types) => types.includes(frame.type));
    const others = this.#unansweredOf(types);
    const sum = others.reduce((sum, other) => sum + other.bytes, bytes);
    return (
      others.length === 0 ||
      (types === MESSAGES && others.length < this.#pace.inFlight && sum <= UNANSWERED_BYTES)
    );
  }

  /** Puts a request on the wire. It has its time from now on. */
  #send(request) {
    const id = (this.#lastId += 1);
    const text = `{"id":${id},${request.text.slice(1)}`;
    if (!this.#write(text, request.frame.type)) {
      request.reject(new ChatError("offline"));
      return;
    }
    const late = () => {
      this.#take(id).reject(new ChatError("timeout"));
      this.flush();
    };
    const deadline = setDeadline(late, this.#connection.options.requestTimeoutMs);
    this.#unanswered.set(id, { ...request, id, deadline, sentAt: now() });
    request.onSent();
    this.#connection.watch();
  }

  #write(text, type) {
    const isWritten = this.#connection.write(text);
    if (isWritten) this.#pace.spend(bytesOf(text), type === "join");
    return isWritten;
  }

  /** The request with this id, which is answered, or will not be. */
  #take(id) {
    const request = this.#unanswered.get(id);
    this.#unanswered.delete(id);
    clearDeadline(request?.deadline);
    return request;
  }
}
