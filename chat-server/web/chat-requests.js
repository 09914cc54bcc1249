// Requests and their answers, on one connection after another: which frame leaves when, at the
// rates of the server's `welcome`, and which request an answer belongs to.

import { ChatError, deferred, rejected } from "./chat-answer.js";
import { ID_BYTES, bytesOf } from "./chat-limits.js";
import { Pace } from "./chat-pace.js";
import { clearDeadline, now, setDeadline } from "./chat-time.js";

/** Requests of the application that may wait for their turns, or for their answers. */
const MOST_REQUESTS = 1_000;

/** Requests that may be unanswered: a server that shares a rate among the connections of a user
 *  reads each of them more slowly than it said, and none is to time out for it. */
const MOST_UNANSWERED = 128;

/** Bytes of messages that may be unanswered, but for one that is larger: what the server reads
 *  at its own rate is then read, and answered, long before a request times out. */
const UNANSWERED_BYTES = 64 * 1024;

/** What the server has to publish. */
const MESSAGES = new Set(["send", "direct"]);

/** The type of the answer to each request. */
const ANSWERS = {
  hello: "welcome",
  join: "joined",
  leave: "left",
  send: "ok",
  direct: "ok",
  members: "members",
  history: "history",
  ping: "pong",
  kick: "ok",
  ban: "ok",
  unban: "ok",
};

export class Requests {
  #timeoutMs;
  #connection;
  /** Of the present connection. */
  #pace = new Pace();
  /** Requests that wait for their turns, in order. */
  #outbox = [];
  /** Requests on the wire, by id. */
  #unanswered = new Map();
  #lastId = 0;
  #flushTimer;

  /**
   * `connection`: `refusal(frame)`, why a frame cannot be sent now, or nothing; `write(text)`,
   * which returns whether there was a connection to write to; and `watch()`, called when a request
   * has left, and when one was answered.
   */
  constructor(timeoutMs, connection) {
    this.#timeoutMs = timeoutMs;
    this.#connection = connection;
  }

  /** A connection begins, without limits until the server gives them. */
  begin() {
    this.#pace = new Pace();
  }

  /** The server's `welcome` gives the rates of the connection, of which the `hello` is spent. */
  keepRates(welcome) {
    const hello = this.asked(welcome);
    this.#pace = new Pace(welcome.limits);
    this.#pace.spend(bytesOf(JSON.stringify(hello)));
  }

  /** As `request`, for the application, of whose requests not too many may wait. */
  ask(frame) {
    if (this.#outbox.length + this.#unanswered.size >= MOST_REQUESTS) {
      return rejected(new ChatError("queue_full"));
    }
    return this.request(frame);
  }

  /** Sends a frame that is answered, when it is its turn. Resolves to the answer. `onSent` is
   *  called when it leaves; it does not if it is not `isWanted` any more. */
  request(frame, { isWanted = () => true, onSent = () => {} } = {}) {
    const refusal = this.#connection.refusal(frame);
    if (refusal) return rejected(refusal);
    const answer = deferred();
    const text = JSON.stringify(frame);
    this.#outbox.push({ frame, text, bytes: bytesOf(text) + ID_BYTES, answer, isWanted, onSent });
    this.flush();
    return answer.promise;
  }

  /** Sends a request that does not wait for its turn. */
  sendAtOnce(frame) {
    const answer = deferred();
    this.#send({ frame, answer });
    return answer.promise;
  }

  /** Sends a frame that is not answered, if it need not wait. Returns whether it was sent. */
  post(frame) {
    const text = JSON.stringify(frame);
    const isTurn = this.#outbox.length === 0 && this.#pace.wait(bytesOf(text)) === 0;
    return isTurn && this.#write(text);
  }

  /** Sends what may leave now. Joins that their own rate holds back are passed over, and so are
   *  messages while too many are unanswered; all others wait for the first, however large. */
  flush() {
    clearTimeout(this.#flushTimer);
    let wait = Infinity;
    for (let index = 0; index < this.#outbox.length && this.#unanswered.size < MOST_UNANSWERED; ) {
      const { frame, bytes, answer, isWanted } = this.#outbox[index];
      const isJoin = frame.type === "join";
      if (!isWanted()) {
        this.#outbox.splice(index, 1);
        answer.reject(new ChatError("offline"));
      } else if (isJoin && this.#pace.joinWait > 0) {
        wait = Math.min(wait, this.#pace.joinWait);
        index += 1;
      } else if (MESSAGES.has(frame.type) && !this.#fits(bytes)) {
        index += 1;
      } else if (this.#pace.wait(bytes) > 0) {
        wait = Math.min(wait, this.#pace.wait(bytes));
        break;
      } else {
        this.#send(this.#outbox.splice(index, 1)[0]);
      }
    }
    if (wait < Infinity) this.#flushTimer = setTimeout(() => this.flush(), Math.ceil(wait));
  }

  /** The request whose answer a frame is, unless it was answered before. */
  asked({ id, type }) {
    const asked = this.#unanswered.get(id)?.asked;
    return asked && type === ANSWERS[asked.type] ? asked : undefined;
  }

  /** The oldest request that is not answered: `asked`, `sentAt`. */
  get oldest() {
    const [oldest] = this.#unanswered.values();
    return oldest;
  }

  /** Takes a frame of the server, which may be the answer to a request. One of another type than
   *  the request's is none, and no other will be sent: the time of the request is over. */
  answer(frame) {
    const isAnswer = this.asked(frame) !== undefined;
    const request = this.#take(frame.id);
    if (request) {
      if (isAnswer) request.answer.resolve(frame);
      else request.answer.reject(frame.type === "error" ? ChatError.fromFrame(frame) : new ChatError("timeout"));
      this.#connection.watch();
    }
    this.flush();
  }

  /** The server has closed the connection with 1009, which does not name the frame that was too
   *  large. Only the largest message fails; the other sends go out again under their keys. */
  failLargest() {
    const [largest] = this.#messages.sort((a, b) => b.bytes - a.bytes);
    if (largest) this.#take(largest.id).answer.reject(new ChatError("too_large"));
  }

  /** The connection is over. */
  disconnect() {
    clearTimeout(this.#flushTimer);
    const lost = new ChatError("disconnected");
    for (const id of [...this.#unanswered.keys()]) this.#take(id).answer.reject(lost);
    // They have not left, so nothing about them is unknown.
    for (const { answer } of this.#outbox.splice(0)) answer.reject(new ChatError("offline"));
  }

  /** The messages that are unanswered. */
  get #messages() {
    return [...this.#unanswered.values()].filter(({ asked }) => MESSAGES.has(asked.type));
  }

  /** Whether one more message, in a frame of so many bytes, may be unanswered. */
  #fits(bytes) {
    const messages = this.#messages;
    const sum = messages.reduce((sum, message) => sum + message.bytes, bytes);
    return messages.length === 0 || (messages.length < this.#pace.inFlight && sum <= UNANSWERED_BYTES);
  }

  /** Puts a request on the wire. It has its time from now on. */
  #send({ frame, text = JSON.stringify(frame), answer, onSent }) {
    const id = (this.#lastId += 1);
    const whole = `{"id":${id},${text.slice(1)}`;
    if (!this.#write(whole, frame.type === "join")) {
      answer.reject(new ChatError("offline"));
      return;
    }
    const deadline = setDeadline(this.#timeoutMs, () => {
      this.#take(id);
      answer.reject(new ChatError("timeout"));
      this.flush();
    });
    this.#unanswered.set(id, { id, asked: frame, bytes: bytesOf(whole), answer, deadline, sentAt: now() });
    onSent?.();
    this.#connection.watch();
  }

  #write(text, isJoin) {
    const isWritten = this.#connection.write(text);
    if (isWritten) this.#pace.spend(bytesOf(text), isJoin);
    return isWritten;
  }

  /** The request that this id answers. */
  #take(id) {
    const request = this.#unanswered.get(id);
    this.#unanswered.delete(id);
    clearDeadline(request?.deadline);
    return request;
  }
}
