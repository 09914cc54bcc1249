// What comes of a request: an answer, now or later, or an error.

/** When to try again, where the server does not say. */
const RETRY_MS = 1_000;

/** Errors after which the same may succeed when it is tried again. */
const PASSING = new Set(["broker_unavailable", "rate_limited", "internal", "timeout"]);

/** What went wrong: `code` is the server's, or one of this client's own. */
export class ChatError extends Error {
  constructor(code, message, { retryAfterMs, key } = {}) {
    super(message);
    this.name = "ChatError";
    this.code = code;
    this.retryAfterMs = retryAfterMs;
    this.key = key;
  }

  static fromFrame({ code, message, retry_after_ms: retryAfterMs }) {
    return new ChatError(code, message, { retryAfterMs });
  }
}

/** Whether the same may succeed when it is tried again. */
export function isPassing({ code, retryAfterMs }) {
  return retryAfterMs !== undefined || PASSING.has(code);
}

/** The pause after an error before the next try: random, so that not all come at once. */
export function pauseAfter({ retryAfterMs = RETRY_MS }) {
  return retryAfterMs * (1 + Math.random());
}

/** A promise with its two ends at hand. */
export function deferred() {
  const parts = {};
  parts.promise = droppable(
    new Promise((resolve, reject) => Object.assign(parts, { resolve, reject })),
  );
  return parts;
}

/** A promise whose rejection nobody has to handle: where it is dropped, Node would end the
 *  process. A promise that is derived from it, by `then` or `async`, is another one. */
export function droppable(promise) {
  promise.catch(() => {});
  return promise;
}

/** A promise that is rejected already. */
export function rejected(error) {
  const { promise, reject } = deferred();
  reject(error);
  return promise;
}
