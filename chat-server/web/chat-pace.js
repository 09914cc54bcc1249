// The rates at which a connection may send: token buckets by the limits in `welcome`. The server
// delays a client that sends faster, including its pings. A client that keeps the rates itself is
// not delayed, and can choose what to send first.

import { now } from "./chat-time.js";

/** The part of each burst that is left unused, as its inverse: frames that the network delays
 *  reach the server in bursts that the client did not send. */
const MARGIN = 16;

/** Messages that may be unanswered, if the server gives no limit. */
const IN_FLIGHT = 64;

export class Pace {
  /** The rate of joins, which each take one. */
  joins;
  /** Messages that may be unanswered. */
  inFlight;
  #frames;
  #bytes;

  /** Full buckets, as those of a new connection. What `limits` does not give is unlimited. */
  constructor({ frames, joins, bytes, in_flight: inFlight = IN_FLIGHT } = {}) {
    this.joins = new Bucket(joins);
    this.inFlight = inFlight;
    this.#frames = new Bucket(frames);
    this.#bytes = new Bucket(bytes);
  }

  /** In how many milliseconds a frame of this size may be sent. */
  wait(bytes) {
    return Math.max(this.#frames.wait(1), this.#bytes.wait(bytes));
  }

  /** Counts a frame that is sent, whether the rates allowed it or not. */
  spend(bytes, isJoin) {
    this.#frames.take(1);
    this.#bytes.take(bytes);
    if (isJoin) this.joins.take(1);
  }
}

/** A token bucket, kept as the time at which it will be full. */
class Bucket {
  #perMs;
  #burst;
  #fullAt = now();

  /** Without a rate it is unlimited. */
  constructor({ per_second: perSecond, burst } = { per_second: Infinity, burst: 1 }) {
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
