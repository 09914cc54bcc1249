// The numbers of the client: times in milliseconds, sizes and close codes. They are in a module that
// imports nothing, since a bundler writes them in place of their names then.

/** Close codes. */
export const POLICY_VIOLATION = 1008;
export const TOO_BIG = 1009;
export const TOKEN_EXPIRED = 4004;

/** The shortest pause before another attempt to renew a token. */
export const RENEW_AGAIN_MS = 5_000;

/** The longest time of a timer: longer ones run at once. */
export const LONGEST_MS = 2 ** 31 - 1;

/** What a browser reports when a connection ended without a close frame. */
export const LOST = 1006;

/** How long after an `error` the `close` may take that should follow. Chromium fires none where a
 *  policy of the page forbids the address, and Node 20 none where a connection is refused. */
export const CLOSE_AFTER_ERROR_MS = 100;

/** How long the other side may take to close, where a WebSocket can end without it. */
export const CLOSING_MS = 2_000;

/** How long a connection must have lasted before the next loss counts as the first again; and
 *  one that the server ended for what was sent, which may well happen again. */
export const STABLE_MS = 5_000;
export const STABLE_AFTER_VIOLATION_MS = 60_000;

/** The largest factor by which an answer may take longer than usual. */
export const MAX_TIMEOUT_FACTOR = 8;

/** Tokens are not renewed more often, however soon they expire. */
export const SHORTEST_MS = 1_000;

/** Requests of the application that may wait for their turns, or for their answers. */
export const MOST_REQUESTS = 1_000;

/** Requests that may be unanswered: a server that shares a rate among the connections of a user
 *  reads each of them more slowly than it said, and none is to time out for it. */
export const MOST_UNANSWERED = 128;

/** Bytes of messages that may be unanswered, but for one that is larger: what the server reads
 *  at its own rate is then read, and answered, long before a request times out. */
export const UNANSWERED_BYTES = 64 * 1024;

/** How long after its first attempt a message may be sent again: servers know its key for five
 *  minutes, and would take it for another one then. */
export const KNOWN_MS = 4.5 * 60_000;

/** The part of each burst that is left unused, as its inverse: frames that the network delays
 *  reach the server in bursts that the client did not send. */
export const MARGIN = 16;

/** Messages that may be unanswered, if the server gives no limit. */
export const IN_FLIGHT = 64;

/** Longest name of a room or a user, in bytes. */
export const NAME_BYTES = 128;

/** What an id adds to a frame, in bytes, at most. */
export const ID_BYTES = '"id":9007199254740991,'.length;

/** Largest frame of a server that is not set otherwise. */
export const FRAME_BYTES = 233_472;

/** The shortest time between two frames with the same typing state. */
export const TYPING_REPEAT_MS = 2_000;

/** Messages that the answer to a join has at most. */
export const MAX_HISTORY = 256;

/** How long a user counts as typing after the last `typing` event. */
export const TYPING_MS = 5_000;

/** Messages in a page of the history. */
export const PAGE = 100;

/** Messages that have failed, of rooms without a handle. */
export const MOST_DRAFTS = 200;
