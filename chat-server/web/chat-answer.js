// The outcome of a request: an answer or an error.

/** The pause before a retry if the server gives none. */
const RETRY_MS = 1_000;

/** Errors after which a retry may succeed, and whether the server has certainly not carried out the
 *  request. */
const PASSING = {
  __proto__: null,
  offline: true,
  disconnected: false,
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

/** Whether a retry may succeed. */
export function isPassing({ code, retryAfterMs }) {
  return retryAfterMs !== undefined || code in PASSING;
}

/** Whether there is no connection any more. */
export function isLost({ code }) {
  return code === "disconnected" || code === "offline";
}

/** Whether the server has certainly not carried out the request. */
export function isCertain({ code }) {
  return PASSING[code] ?? false;
}

/** The pause before a retry: random, so that clients do not retry at the same time. */
export function pauseAfter({ retryAfterMs = RETRY_MS }) {
  return retryAfterMs * (1 + Math.random());
}

/** As `new Promise(run)`, whose rejection an application may drop. */
export function outcome(run) {
  return droppable(new Promise(run));
}

/** Marks a promise as handled: Node would end the process when one that is dropped rejects. Promises
 *  derived by `then` or `async` are not marked. */
export function droppable(promise) {
  promise.catch(() => {});
  return promise;
}
