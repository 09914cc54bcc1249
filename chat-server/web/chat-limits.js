// What the server would refuse, and what is therefore not sent: a frame above the limit would
// cost the connection, and all that is on its way there.

import { ChatError } from "./chat-answer.js";
import { FRAME_BYTES, ID_BYTES, NAME_BYTES } from "./chat-numbers.js";

const NAME_RULE = `A name has 1 to ${NAME_BYTES} bytes and no control character.`;

/** The length of a text in UTF-8. (Some environments for tests have no `TextEncoder`.) */
export function bytesOf(text = "") {
  let bytes = 0;
  for (const point of `${text}`) {
    const code = point.codePointAt();
    bytes += point.length + (code > 0x7f) + (code > 0x7ff);
  }
  return bytes;
}

/** The text of a frame. Throws an error if it cannot be sent. `limits` are those of `welcome`, if
 *  there was one. */
export function textOf(frame, limits) {
  const { room, message, data } = frame;
  if (room !== undefined && !isName(room)) throw new ChatError("room_name_invalid", NAME_RULE);
  // JSON carries half a character, but the server does not read it: there would be no answer.
  if (/\p{Cs}/u.test(message)) throw new ChatError("bad_field", "The text has half a character.");
  const text = jsonOf(frame);
  const { message_bytes: messageBytes = Infinity, frame_bytes: frameBytes = FRAME_BYTES } = limits ?? {};
  if (bytesOf(message) > messageBytes || (data !== undefined && bytesOf(jsonOf(data)) > messageBytes)) {
    throw new ChatError("message_too_long", `A message or its data has more than ${messageBytes} bytes.`);
  }
  if (bytesOf(text) + ID_BYTES > frameBytes) throw new ChatError("too_large");
  return text;
}

/** Throws an error if a user cannot take this name. */
export function checkName(name) {
  if (name !== undefined && !isName(name)) throw new ChatError("bad_field", NAME_RULE);
}

function jsonOf(value) {
  let why = typeof value;
  try {
    const json = JSON.stringify(value);
    if (json !== undefined) return json;
  } catch (error) {
    why = error.message;
  }
  throw new ChatError("bad_field", `JSON cannot hold the data: ${why}`);
}

function isName(name) {
  return bytesOf(name) <= NAME_BYTES && !/^$|[\p{Cc}\p{Cs}]/u.test(name);
}
