/** What a user reads in place of the code of an error. */
const SENTENCES = {
  banned: "You are banned.",
  closed: "The chat is disconnected.",
  forbidden: "You may not do that here.",
  kicked: "A moderator has removed you.",
  message_too_long: "The message is too long.",
  other_user: "Another user wrote this message.",
  outcome_unknown: "No answer came. The message may have been sent.",
  queue_full: "Too many messages wait. Send it again later.",
  rate_limited: "Too many messages. This one follows by itself.",
  rejected: "This message is not allowed.",
  timeout: "No answer came. The message was not sent.",
  too_large: "The message is too long.",
  unauthorized: "You are logged out.",
};

/** What a user reads about the connection. */
export const STATES = {
  idle: "Connecting…",
  connecting: "Connecting…",
  online: "Connected",
  waiting: "The connection is lost. The page connects again.",
};

/** A sentence for an error. Its `reason`, the moderator's words, is shown apart from it. */
export function sentence({ code, until }) {
  const end = until ? ` This ends at ${new Date(until).toLocaleString()}.` : "";
  return (SENTENCES[code] ?? "Something failed. Try again.") + end;
}
