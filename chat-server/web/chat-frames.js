// Frames of the server as this module reads them: unknown fields are skipped, a field that is
// `null` counts as absent, and a frame that lacks what its type needs is ignored.

/** The frame in a text, or nothing. A message that is ignored is found missing by the next one. */
export function readFrame(text) {
  let frame;
  try {
    frame = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof frame !== "object" || frame === null) return undefined;
  dropNulls(frame);
  return typeof frame.type === "string" && isWhole(frame) ? frame : undefined;
}

/** Whether handlers and the copy of a room can do without further checks. */
function isWhole({ type, room, offset, epoch, user, message, messages = [] }) {
  if (offset !== undefined && !Number.isSafeInteger(offset)) return false;
  if (epoch !== undefined && typeof epoch !== "string") return false;
  if (type === "message") {
    return [room, user?.id, message].every((field) => typeof field === "string");
  }
  return Array.isArray(messages) && messages.every(isWhole);
}

/** `data` belongs to the application, `null` within it too. */
function dropNulls(object) {
  for (const [name, field] of Object.entries(object)) {
    if (field === null) delete object[name];
    else if (typeof field === "object" && name !== "data") dropNulls(field);
  }
}
