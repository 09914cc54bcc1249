// What the server would refuse, and what is therefore not sent: a frame above the limit would
// cost the connection, and all that is on its way there.

import { ChatError } from "./chat-answer.js";

/** Longest name of a room or a user, in bytes. */
const NAME_BYTES = 128;

const NAME_RULE = `A name has 1 to ${NAME_BYTES} bytes and no control characters.`;

/** What an id adds to a frame, in bytes, at most. */
export const ID_BYTES = '"id":9007199254740991,'.length;

/** Largest frame of a server that is not set otherwise. */
const FRAME_BYTES = 233_472;

const encoder = new TextEncoder();

export function bytesOf(text = "") {
  return encoder.encode(text).length;
}

/** Why a frame cannot be sent, or nothing. `limits` are those of `welcome`, if there was one. */
export function refusalOf(frame, limits) {
  const { room, message } = frame;
  if (room !== undefined && !isName(room)) return new ChatError("room_name_invalid", NAME_RULE);
  // JSON carries half a character, but the server does not read it: there would be no answer.
  if (/\p{Cs}/u.test(message)) return new ChatError("bad_field", "The text has half a character.");
  let text;
  let data;
  try {
    text = JSON.stringify(frame);
    data = JSON.stringify(frame.data);
    if (data === undefined && frame.data !== undefined) throw new TypeError(`it is a ${typeof frame.data}`);
  } catch (error) {
    return new ChatError("bad_field", `JSON cannot hold the data: ${error.message}`);
  }
  const { message_bytes: messageBytes = Infinity, frame_bytes: frameBytes = FRAME_BYTES } = limits ?? {};
  if (bytesOf(message) > messageBytes || bytesOf(data) > messageBytes) {
    const rule = `A message has at most ${messageBytes} bytes, and so has its data.`;
    return new ChatError("message_too_long", rule);
  }
  return bytesOf(text) + ID_BYTES > frameBytes ? new ChatError("too_large") : undefined;
}

/** Why a user cannot have this name, or nothing. */
export function nameRefusal(name) {
  if (name === undefined || isName(name)) return undefined;
  return new ChatError("bad_field", NAME_RULE);
}

function isName(name) {
  const bytes = bytesOf(name);
  return bytes > 0 && bytes <= NAME_BYTES && !/[\p{Cc}\p{Cs}]/u.test(name);
}
