// The outcome of a request: an answer or an error.

/** The pause before a retry if the server gives none. */
const RETRY_MS = 1_000;

/** Errors after which a retry may succeed. */
const PASSING = new Set([
  "broker_unavailable",
  "rate_limited",
  "hook_unavailable",
  "internal",
  "timeout",
]);

/** Passing errors with which the server says that it has not carried out the request. */
const CERTAIN = new Set(["rate_limited", "hook_unavailable"]);

/** An error. `code` is one of the server, or of this client. */
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

/** Whether a retry may succeed. */
export function isPassing({ code, retryAfterMs }) {
  return retryAfterMs !== undefined || PASSING.has(code);
}

/** Whether the server has certainly not carried out the request. */
export function isCertain({ code }) {
  return CERTAIN.has(code);
}

/** The pause before a retry: random, so that clients do not retry at the same time. */
export function pauseAfter({ retryAfterMs = RETRY_MS }) {
  return retryAfterMs * (1 + Math.random());
}

/** A promise with its `resolve` and `reject`. */
export function deferred() {
  const parts = {};
  parts.promise = droppable(
    new Promise((resolve, reject) => Object.assign(parts, { resolve, reject })),
  );
  return parts;
}

/** Marks a promise as handled: an application may drop it, and Node would end the process when it
 *  rejects. Promises derived by `then` or `async` are not marked. */
export function droppable(promise) {
  promise.catch(() => {});
  return promise;
}

/** A rejected promise. */
export function rejected(error) {
  const { promise, reject } = deferred();
  reject(error);
  return promise;
}
