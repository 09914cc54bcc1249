// Frames of the server as this module reads them: unknown fields are skipped, a field that is
// `null` counts as absent, and a frame that lacks what its type needs is ignored.

/** The frame in a text, or nothing. A message that is ignored is found missing by the next one. */
export function readFrame(text) {
  try {
    const frame = JSON.parse(text);
    dropNulls(frame);
    if (isWhole(frame)) return frame;
  } catch {
    // It is no JSON, or `null`.
  }
  return undefined;
}

/** What a frame of a type needs, so that handlers and the copies of rooms do without checks. */
const NEEDS = {
  welcome: ({ user }) => isText(user?.id),
  joined: ({ messages = [] }) => Array.isArray(messages) && messages.every(isWhole),
  message: ({ room, user, message }) => isText(room) && isText(user?.id) && isText(message),
  capabilities: ({ can }) => Array.isArray(can),
  goodbye: ({ after_ms: afterMs = 0 }) => isCount(afterMs),
};

function isWhole(frame) {
  const { type, offset = 0, epoch = "" } = frame;
  return isText(type) && isCount(offset) && isText(epoch) && (NEEDS[type]?.(frame) ?? true);
}

function isText(value) {
  return typeof value === "string";
}

function isCount(value) {
  return Number.isSafeInteger(value) && value >= 0;
}

/** `data` belongs to the application, `null` within it too. */
function dropNulls(object) {
  for (const [name, field] of Object.entries(object)) {
    if (field === null) delete object[name];
    else if (typeof field === "object" && name !== "data") dropNulls(field);
  }
}
