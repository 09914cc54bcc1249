// The rates at which a connection may send: token buckets by the limits in `welcome`. The server
// delays a client that sends faster, including its pings. A client that keeps the rates itself is
// not delayed, and can choose what to send first.

import { IN_FLIGHT, MARGIN } from "./chat-numbers.js";
import { now } from "./chat-time.js";

/** Full buckets, as those of a new connection: `joins`, which each take one, and those of `wait` and
 *  `spend`; and how many messages may be unanswered, `inFlight`. What `limits` does not give is
 *  unlimited. */
export function paceOf({ frames, joins, bytes, in_flight: inFlight = IN_FLIGHT } = {}) {
  const [frameBucket, joinBucket, byteBucket] = [frames, joins, bytes].map(bucketOf);
  return {
    joins: joinBucket,
    inFlight,
    /** In how many milliseconds a frame of this size may be sent. */
    wait: (size) => Math.max(frameBucket.wait(1), byteBucket.wait(size)),
    /** Counts a frame that is sent, whether the rates allowed it or not. */
    spend(size, isJoin) {
      frameBucket.take(1);
      byteBucket.take(size);
      if (isJoin) joinBucket.take(1);
    },
  };
}

/** A token bucket, kept as the time at which it will be full. Without a rate it is unlimited. */
function bucketOf({ per_second: perSecond, burst } = { per_second: Infinity, burst: 1 }) {
  const perMs = Math.max(1, perSecond) / 1000;
  const most = Math.max(1, burst - Math.floor(burst / MARGIN));
  let fullAt = now();
  return {
    /** In how many milliseconds it has so many tokens. A larger amount needs a full bucket. */
    wait: (tokens) => Math.max(0, fullAt - (most - Math.min(tokens, most)) / perMs - now()),
    take(tokens) {
      fullAt = Math.max(fullAt, now()) + tokens / perMs;
    },
  };
}
