// What the server would refuse, and what is therefore not sent: a frame above the limit would
// cost the connection, and all that is on its way there.

import { ChatError } from "./chat-answer.js";
import { FRAME_BYTES, ID_BYTES, NAME_BYTES } from "./chat-numbers.js";

export const NAME_RULE = `A name is visible text of at most ${NAME_BYTES} bytes.`;

/** The length of a text in UTF-8. (Some environments for tests have no `TextEncoder`.) */
export function bytesOf(text = "") {
  let bytes = 0;
  for (const point of `${text}`) {
    const code = point.codePointAt();
    bytes += point.length + (code > 0x7f) + (code > 0x7ff);
  }
  return bytes;
}

/** The text of a frame. Throws an error if it cannot be sent. The limits are those of `welcome`, if
 *  there was one. */
export function textOf(
  frame,
  { message_bytes: messageBytes = Infinity, frame_bytes: frameBytes = FRAME_BYTES } = {},
) {
  const { room, message, data } = frame;
  if (room !== undefined && !isName(room)) throw new ChatError("room_name_invalid", NAME_RULE);
  // JSON carries half a character, but the server does not read it: there would be no answer.
  if (/\p{Cs}/u.test(message)) throw new ChatError("bad_field", "Half a character.");
  const text = jsonOf(frame);
  if (bytesOf(message) > messageBytes || (data !== undefined && bytesOf(jsonOf(data)) > messageBytes)) {
    throw new ChatError("message_too_long", `More than ${messageBytes} bytes.`);
  }
  if (bytesOf(text) + ID_BYTES > frameBytes) throw new ChatError("too_large");
  return text;
}

function jsonOf(value) {
  let why = typeof value;
  try {
    const json = JSON.stringify(value);
    if (json !== undefined) return json;
  } catch (error) {
    why = error.message;
  }
  throw new ChatError("bad_field", `No JSON: ${why}`);
}

/** Whether a room or a user can have this name. */
export function isName(name) {
  return (
    typeof name === "string" && bytesOf(name) <= NAME_BYTES && !/^[\s\p{DI}\p{Cf}\u2800]*$|[\p{Cc}\p{Cs}]/u.test(name)
  );
}
