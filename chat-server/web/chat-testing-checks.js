// Mistakes of a test that uses the server for tests. Each is an error at once: the test would wait in
// vain, or pass for another reason than it says.

import { TYPES, readRequest } from "./chat-testing-rules.js";

/** The codes of the errors of a server. */
const ERROR_CODES = [
  "bad_json",
  "unknown_type",
  "missing_field",
  "bad_field",
  "room_name_invalid",
  "not_in_room",
  "too_many_rooms",
  "too_many_bans",
  "message_too_long",
  "rate_limited",
  "unauthorized",
  "forbidden",
  "banned",
  "rejected",
  "hook_unavailable",
  "broker_unavailable",
  "history_disabled",
  "unsupported",
  "internal",
];

/** The close codes of a server, and what it says with them. */
export const CLOSE_REASONS = {
  1000: "normal",
  1001: "going away",
  1002: "protocol error",
  1003: "text frames only",
  1007: "invalid UTF-8",
  1008: "policy violation",
  1009: "message too big",
  1011: "internal error",
  1013: "over capacity",
  4000: "slow consumer",
  4001: "heartbeat lost",
  4002: "kicked",
  4003: "banned",
  4004: "token expired",
};

/** Why a server ends a connection. */
const GOODBYE_REASONS = ["shutdown", "rebalance", "disconnected", "kicked", "banned", "token_expired"];

/** Why a client is out of a room. */
const LEFT_REASONS = ["kicked", "banned", "forbidden"];

/** The options of `call` are an object that has none but these. */
export function checkOptions(call, options, known) {
  if (typeof options !== "object" || options === null) throw new TypeError(`The options of ${call} are an object.`);
  for (const name of Object.keys(options)) checkOneOf(`an option of ${call}`, name, known);
}

/** A request has this type. */
export function checkType(type) {
  checkOneOf("a type of a request", type, TYPES);
}

/** A server refuses requests with this code. */
export function checkErrorCode(code) {
  checkOneOf("a code of a server's errors", code, ERROR_CODES);
}

/** An option is a function, if given. */
export function checkFunction(name, value) {
  if (value !== undefined && typeof value !== "function") throw new TypeError(`${name} is a function.`);
}

/** A token lasts for some milliseconds, if it expires. */
export function checkLifetime(ms) {
  if (ms !== undefined && !(Number.isFinite(ms) && ms >= 0)) throw new TypeError(`expiresInMs is no number from 0 on: ${ms}.`);
}

/** A real server takes this request. */
export function checkRequest(request, limits) {
  const { error } = readRequest(JSON.stringify(request), limits);
  if (error) throw new TypeError(error.join(": "));
}

/** A connection ends with this code: one of the server, of a proxy or of a later server. No server ends one without
 *  a code, which is 1005. */
export function checkCloseCode(code) {
  const isStandard = code >= 1000 && code <= 1014 && code !== 1004 && code !== 1005;
  const isOther = code >= 3000 && code <= 4999;
  if (Number.isInteger(code) && (isStandard || isOther)) return;
  throw new TypeError(`${String(code)} is not a close code: those are 1000 to 1003, 1006 to 1014 and 3000 to 4999.`);
}

/** A `goodbye` is followed by a code of the server, has one of its reasons, and no members of another frame. */
export function checkGoodbye(code, goodbye) {
  checkOneOf("a close code of a server", code, Object.keys(CLOSE_REASONS).map(Number));
  checkOptions("goodbye", goodbye, ["reason", "reconnect", "after_ms", "message", "until"]);
  checkOneOf("a reason of a goodbye", goodbye.reason, GOODBYE_REASONS);
}

/** A kick has the moderator's words, and a reason. */
export function checkKick(message, reason) {
  if (message !== undefined && typeof message !== "string") throw new TypeError("The words of a kick are text.");
  checkOneOf("a reason of a kick", reason, LEFT_REASONS);
}

/** A ban lasts a whole number of seconds, or until it is lifted. */
export function checkBan(call, options) {
  checkOptions(call, options, ["seconds", "message"]);
  const { seconds, message } = options;
  if (seconds !== undefined && !(Number.isInteger(seconds) && seconds > 0)) {
    throw new TypeError(`A ban lasts a whole number of seconds from 1 on, not ${seconds}.`);
  }
  if (message !== undefined && typeof message !== "string") throw new TypeError("The words of a ban are text.");
}

/** `value` is one of the known ones. */
export function checkOneOf(what, value, known) {
  if (known.includes(value)) return;
  throw new TypeError(`${String(value)} is not ${what}: known are ${known.join(", ") || "none"}.`);
}
