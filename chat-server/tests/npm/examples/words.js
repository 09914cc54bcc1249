/** What a user reads in place of the code of an error. */
const SENTENCES = {
  bad_field: "The page has made a mistake. This cannot be sent.",
  banned: "You are banned.",
  closed: "The chat is disconnected.",
  disconnected: "The connection was lost before the answer.",
  forbidden: "You may not do that here.",
  kicked: "A moderator has removed you.",
  log_out_unknown: "It is not known whether you are logged out. Try again.",
  message_too_long: "The message is too long.",
  not_in_room: "You are not in the room.",
  not_logged_out: "You are not logged out. Try again.",
  offline: "There is no connection. Try again later.",
  other_user: "Another user wrote this message.",
  outcome_unknown: "No answer came. The message may have been sent.",
  queue_full: "Too many messages wait. Send it again later.",
  rate_limited: "Too many messages. This one follows by itself.",
  rejected: "This message is not allowed.",
  room_name_invalid: "A room cannot have this name.",
  timeout: "No answer came. The message was not sent.",
  token_refused: "The chat does not accept your log-in. Try again later.",
  too_large: "The message is too long.",
  too_many_rooms: "You are in too many rooms. Leave one first.",
  unauthorized: "You are logged out.",
};

/** Errors that say why the user is out, and not what is wrong with a message. */
const OUT = new Set(["closed", "kicked", "not_in_room", "unauthorized"]);

/** Errors that the same text would have again. */
export const FINAL = new Set(["bad_field", "message_too_long", "rejected", "too_large"]);

/** What a user reads about the connection. */
export const STATES = {
  idle: "Connecting…",
  connecting: "Connecting…",
  online: "Connected",
  waiting: "The connection is lost. The page connects again.",
  logging_out: "Logging out…",
};

/** A sentence for an error. Its `reason`, the moderator's words, is shown apart from it. */
export function sentence({ code, until }) {
  const end = until ? ` This ends at ${new Date(until).toLocaleString()}.` : "";
  return (SENTENCES[code] ?? "Something failed. Try again.") + end;
}

/** A sentence for the error of a message. It is still there when the user has returned. */
export function noteOf(error) {
  return OUT.has(error.code) ? "It was not sent." : sentence(error);
}
