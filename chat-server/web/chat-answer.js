// The outcome of a request: an answer or an error.

/** The pause before a retry if the server gives none. */
const RETRY_MS = 1_000;

/** Errors after which a retry may succeed, and whether the server has certainly not carried out the
 *  request. */
const PASSING = {
  broker_unavailable: false,
  rate_limited: true,
  hook_unavailable: true,
  internal: false,
  timeout: false,
};

/** The texts of the client's own errors. */
const TEXTS = {
  banned: "The user is banned.",
  closed: "The connection was closed.",
  disconnected: "The connection was lost before the answer.",
  kicked: "The user was removed.",
  not_in_room: "The client is not in the room.",
  offline: "There is no connection.",
  other_user: "The message is of another user.",
  outcome_unknown: "The server may have accepted the message.",
  queue_full: "Too many requests wait.",
  timeout: "The server did not answer in time.",
  too_large: "The frame is larger than the server allows.",
  unauthorized: "There is no token.",
};

/** An error. `code` is one of the server, or of this client. */
export class ChatError extends Error {
  constructor(code, message = TEXTS[code], more = {}) {
    super(message);
    // Only what there is: an error that a test or a log prints has no empty members.
    for (const [name, value] of Object.entries({ ...more, name: "ChatError", code })) {
      if (value !== undefined) this[name] = value;
    }
  }

  static fromFrame({ code, message, retry_after_ms: retryAfterMs, until, reason }) {
    return new ChatError(code, message, { retryAfterMs, until, reason });
  }
}

/** The error of a message with this key. */
export function errorOfSend(error, key) {
  return new ChatError(error.code, error.message, { ...error, key });
}

/** Whether a retry may succeed. */
export function isPassing({ code, retryAfterMs }) {
  return retryAfterMs !== undefined || Object.hasOwn(PASSING, code);
}

/** Whether the server has certainly not carried out the request. */
export function isCertain({ code }) {
  return Object.hasOwn(PASSING, code) && PASSING[code];
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
