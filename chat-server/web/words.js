// Errors in words for people.

const NO_TOKEN =
  "This chat asks for a token. Open it with the link that you were given, or add #token=… to its address.";

const ENDS = {
  1000: "the connection was closed.",
  4004: "your access has run out. Open the link that you were given once more, or get a new one.",
};

/** Ends to which a moderator may have added words. */
const SANCTIONS = {
  4002: "a moderator ended the connection",
  4003: "you are banned",
};

const NOT_SENT = {
  message_too_long: "The message is too long. Send it in parts.",
  too_large: "That is too large to be sent.",
  queue_full: "Too many messages wait to be sent. Try again in a moment.",
  rate_limited: "That was too fast.",
  hook_unavailable: "It could not be checked.",
  timeout: "The server did not answer in time.",
  offline: "There is no connection.",
  disconnected: "The connection was lost before the answer.",
  closed: "The connection was closed.",
  other_user: "It is of another user.",
  room_name_invalid: "This is no name for a room: it is too long, or has characters that a name cannot have.",
};

const EVICTIONS = {
  kicked: "You were removed from the room",
  banned: "You are banned from this room",
};

/** Why the connection was closed. */
export function endInWords({ code, reason, message }) {
  if (code in SANCTIONS) return withWords(SANCTIONS[code], message);
  return ENDS[code] ?? reason;
}

/** Why the user is not in a room: removed, or not admitted. */
export function evictionInWords({ code, message, reason }, hasToken) {
  const what = EVICTIONS[code];
  if (!what && message) return errorInWords({ code, message }, hasToken);
  if (!what) return "You are not allowed in the room any more.";
  return withWords(what, reason);
}

function withWords(what, words) {
  return words ? `${what}: ${words}` : `${what}.`;
}

/** Why a message failed. */
export function failureInWords(error) {
  if (error.code === "outcome_unknown") return "No answer came: the message may have been sent.";
  if (error.code === "unauthorized") return "Not sent: your access has run out.";
  return `Not sent: ${errorInWords(error)}`;
}

/** Why a request was rejected. */
export function errorInWords({ code, message }, hasToken) {
  if (code === "unauthorized") return hasToken ? `${message} Get a new link.` : NO_TOKEN;
  return NOT_SENT[code] ?? message;
}
