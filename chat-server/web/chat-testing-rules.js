// What a real server refuses of a frame, for the server for tests: the fields are read in the same
// order, so that the same one is at fault.

import { bytesOf } from "./chat-limits.js";

/** Longest name, in bytes, and longest `id` and `key`, in bytes as they are in the frame. */
const [NAME_BYTES, TAG_BYTES] = [128, 128];

/** Longest text of a moderator, in bytes. */
const REASON_BYTES = 512;

/** The deepest frame, and the deepest value that is forwarded. */
const [FRAME_DEPTH, VALUE_DEPTH] = [64, 60];

/** The largest numbers of 32 and of 64 bits that JavaScript has. */
const [MAX_32, MAX_64] = [2 ** 32 - 1, 2 ** 64];

/** A character that one sees. */
const VISIBLE = /[^\s\x85\p{Default_Ignorable_Code_Point}\u2800\ufff9-\ufffb\u{13430}-\u{1343f}\u{13441}\u{13442}\u{16fe4}\u{1d159}]/u;

const CONTROL = /\p{Cc}/u;
const BIDI_CONTROL = /\p{Bidi_Control}/u;
/** What no text may have that others get to read: half a surrogate pair, and NUL. */
const UNREADABLE = /[\p{Cs}\0]/u;

/** The fields of each type of request, in the order in which a server reads them. */
const FIELDS = {
  hello: { token: isText, name: isUserName, resume: isText },
  join: { room: isName, since: isPosition, history: isNumber },
  leave: { room: isName },
  send: { room: isName, data: isPortable, key: isTag, message: isReadable },
  direct: { to: isName, data: isPortable, key: isTag, message: isReadable },
  typing: { room: isName, typing: (value) => typeof value === "boolean" },
  history: { room: isName, before: isLongNumber, after: isLongNumber, limit: isNumber },
  members: { room: isName },
  ping: {},
  kick: { reason: isReason, room: isName, user: isName },
  ban: { reason: isReason, room: isName, user: isName, seconds: isLongNumber },
  unban: { room: isName, user: isName },
};

const REQUIRED = new Set(["room", "to", "user", "message", "typing"]);

/** The types of requests. */
export const TYPES = Object.keys(FIELDS);

/** A frame as a server reads it: `{frame}` without fields that are `null`, or `{frame, error}` with
 *  the code and the text of what is wrong. `limits` are those of `welcome`. */
export function readRequest(text, limits) {
  let frame;
  try {
    frame = JSON.parse(text);
  } catch (error) {
    return { frame: {}, error: ["bad_json", error.message] };
  }
  if (frame === null || typeof frame !== "object" || Array.isArray(frame)) {
    return { frame: {}, error: ["bad_json", "A frame is one JSON object."] };
  }
  const isTooDeep = depthOf(frame) > FRAME_DEPTH;
  frame = Object.fromEntries(Object.entries(frame).filter(([, value]) => value !== null));
  const { id } = frame;
  if (id !== undefined && !isTag(id) && !Number.isInteger(id)) {
    return { frame: { ...frame, id: undefined }, error: bad("id") };
  }
  const tooDeep = isTooDeep ? ["bad_json", `The JSON of a frame is nested at most ${FRAME_DEPTH} levels deep.`] : undefined;
  return { frame, error: errorOf(frame, limits) ?? tooDeep };
}

function errorOf(frame, limits) {
  const { type, data, before, after, message } = frame;
  if (type === undefined) return missing("type");
  if (typeof type !== "string") return bad("type");
  if (!Object.hasOwn(FIELDS, type)) return ["unknown_type", `There is no request of the type ${type}.`];
  // The whole frame is forwarded.
  if (type === "direct" && frame.to !== undefined && !isPortable(frame)) return bad("frame");
  for (const [name, isValid] of Object.entries(FIELDS[type])) {
    const value = frame[name];
    if (value === undefined && REQUIRED.has(name)) return missing(name);
    if (value === undefined || isValid(value)) continue;
    const isRoomName = name === "room" && typeof value === "string";
    return isRoomName ? ["room_name_invalid", "The name of the room is not valid."] : bad(name);
  }
  if (before !== undefined && after !== undefined) {
    return ["bad_field", 'A frame has "before" or "after", and not both.'];
  }
  const isMessage = type === "send" || type === "direct";
  if (isMessage && data === undefined && !VISIBLE.test(message)) {
    return ["bad_field", 'The "message" holds no visible character, and there is no "data".'];
  }
  const most = limits.message_bytes;
  if (isMessage && (bytesOf(message) > most || (data !== undefined && bytesOf(JSON.stringify(data)) > most))) {
    return ["message_too_long", `A message has at most ${most} bytes, and so has its data.`];
  }
  return undefined;
}

function missing(name) {
  return ["missing_field", `The frame needs the field "${name}".`];
}

function bad(name) {
  return ["bad_field", `The field "${name}" is not of its type, or out of range.`];
}

function isText(value) {
  return typeof value === "string" && !/\p{Cs}/u.test(value);
}

function isReadable(value) {
  return typeof value === "string" && !UNREADABLE.test(value);
}

function isTag(value) {
  return isReadable(value) && bytesOf(JSON.stringify(value)) <= TAG_BYTES;
}

function isReason(value) {
  return isReadable(value) && bytesOf(value) <= REASON_BYTES;
}

/** Whether a text is the name of a room or the id of a user. */
function isName(value) {
  const isValid = isText(value) && VISIBLE.test(value) && !CONTROL.test(value) && !BIDI_CONTROL.test(value);
  return isValid && bytesOf(value) <= NAME_BYTES;
}

/** A name of a user is repaired where a room's is refused. */
function isUserName(value) {
  return typeof value === "string" && isName(repairedName(value));
}

/** A name of a user as the server takes it. */
export function repairedName(name) {
  return name.replace(/\p{Bidi_Control}/gu, "").replace(/\p{Cs}/gu, "\ufffd");
}

function isNumber(value) {
  return Number.isInteger(value) && value >= 0 && value <= MAX_32;
}

function isLongNumber(value) {
  return Number.isInteger(value) && value >= 0 && value < MAX_64;
}

function isPosition(value) {
  return typeof value?.epoch === "string" && isLongNumber(value.offset);
}

/** Whether every common parser reads a value. */
function isPortable(value) {
  const isReadableWithin = (part) => {
    if (typeof part === "string") return isReadable(part);
    if (typeof part === "number") return Number.isFinite(part);
    if (typeof part !== "object" || part === null) return true;
    return Object.entries(part).every(([name, member]) => isReadable(name) && isReadableWithin(member));
  };
  return depthOf(value) <= VALUE_DEPTH && isReadableWithin(value);
}

/** How deep arrays and objects are nested; no deeper than a frame may be is counted. */
function depthOf(value, left = FRAME_DEPTH) {
  if (typeof value !== "object" || value === null) return 0;
  if (left === 0) return 1;
  return 1 + Math.max(0, ...Object.values(value).map((member) => depthOf(member, left - 1)));
}
