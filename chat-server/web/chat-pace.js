// The rates at which a connection may send: token buckets by the limits in `welcome`. The server
// delays a client that sends faster, including its pings. A client that keeps the rates itself is
// not delayed, and can choose what to send first.

import { now } from "./chat-time.js";

/** The part of each burst that is left unused, as its inverse: frames that the network delays
 *  reach the server in bursts that the client did not send. */
const MARGIN = 16;

/** Bytes of messages that may be unanswered, but for one that is larger: what the server reads
 *  at its own rate is then read, and answered, long before a request times out. */
const UNANSWERED_BYTES = 64 * 1024;

/** Messages that may be unanswered, if the server gives no limit. */
const IN_FLIGHT = 64;

export class Pace {
  #frames;
  #joins;
  #bytes;
  #inFlight;
  /** The sizes of the frames of messages that are unanswered, by the ids of their requests. */
  #unanswered = new Map();

  /** Full buckets, as those of a new connection. What `limits` does not give is unlimited. */
  constructor({ frames, joins, bytes, in_flight: inFlight = IN_FLIGHT } = {}) {
    this.#frames = frames && new Bucket(frames);
    this.#joins = joins && new Bucket(joins);
    this.#bytes = bytes && new Bucket(bytes);
    this.#inFlight = inFlight;
  }

  /** In how many milliseconds a frame of this size may be sent. */
  wait(bytes) {
    return Math.max(this.#frames?.wait(1) ?? 0, this.#bytes?.wait(bytes) ?? 0);
  }

  /** In how many milliseconds the rate of joins allows the next join. */
  get joinWait() {
    return this.#joins?.wait(1) ?? 0;
  }

  /** Counts a frame that is sent, whether the rates allowed it or not. */
  spend(bytes, isJoin = false) {
    this.#frames?.take(1);
    this.#bytes?.take(bytes);
    if (isJoin) this.#joins?.take(1);
  }

  /** Whether one more message, in a frame of so many bytes, may be unanswered. */
  fits(bytes) {
    const { size } = this.#unanswered;
    if (size === 0) return true;
    const sum = [...this.#unanswered.values()].reduce((sum, bytes) => sum + bytes, bytes);
    return size < this.#inFlight && sum <= UNANSWERED_BYTES;
  }

  /** Counts a message that is sent, as the request with this id. */
  sent(id, bytes) {
    this.#unanswered.set(id, bytes);
  }

  /** A request is answered, or no longer waited for. */
  answered(id) {
    this.#unanswered.delete(id);
  }

  /** The id of the largest message that is unanswered. */
  get largest() {
    const [largest] = [...this.#unanswered].sort(([, a], [, b]) => b - a);
    return largest?.[0];
  }
}

/** A token bucket, kept as the time at which it will be full. */
class Bucket {
  #perMs;
  #burst;
  #fullAt = now();

  constructor({ per_second: perSecond, burst }) {
    this.#perMs = Math.max(1, perSecond) / 1000;
    this.#burst = Math.max(1, burst - Math.floor(burst / MARGIN));
  }

  /** In how many milliseconds the bucket has so many tokens. A larger amount needs a full bucket. */
  wait(tokens) {
    const missing = this.#burst - Math.min(tokens, this.#burst);
    return Math.max(0, this.#fullAt - missing / this.#perMs - now());
  }

  take(tokens) {
    this.#fullAt = Math.max(this.#fullAt, now()) + tokens / this.#perMs;
  }
}
