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

/** An error. `code` is one of the server, or of this client. */
export class ChatError extends Error {
  /** `more`: what else the error says; an error that a test or a log prints has no empty members. */
  constructor(code, message = sentenceOf(code), more = {}) {
    super(message);
    Object.assign(this, defined({ ...more, name: "ChatError", code }));
  }

  /** For a log: the text of an error is no member that JSON has. */
  toJSON() {
    return { message: this.message, ...this };
  }

  static fromFrame({ code, message, retry_after_ms: retryAfterMs, until, reason }) {
    return new ChatError(code, message, { retryAfterMs, until, reason });
  }
}

/** The text of an error of the client's own: "Not in room." A user may read why it was removed. */
function sentenceOf(code) {
  if (code === "kicked" || code === "banned") return `You were ${code}.`;
  return `${code[0].toUpperCase()}${code.slice(1).replaceAll("_", " ")}.`;
}

/** The members of an object that are neither `undefined` nor `null`. */
export function defined(object) {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined && value !== null));
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
  return PASSING[code];
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
