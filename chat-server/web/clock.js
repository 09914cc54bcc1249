// The server's clock. Messages carry its time, and all that stands between them is dated by it,
// too: that of the device may be days off, and one list has one clock.

import { BASE } from "./place.js";

/** How long its reading may hold up the page. */
const READING_MS = 2_000;

/** By how many milliseconds it is ahead of the device's. */
let ahead = 0;

/** Milliseconds since 1970, by the server's clock. */
export function serverNow() {
  return Date.now() + ahead;
}

/** Reads it, from the header of an answer. Without one the device's clock counts. */
export async function readClock() {
  try {
    const asked = Date.now();
    const answer = await fetch(BASE, { method: "HEAD", cache: "no-store", signal: AbortSignal.timeout(READING_MS) });
    const date = Date.parse(answer.headers.get("date"));
    if (!Number.isNaN(date)) ahead = date - (asked + Date.now()) / 2;
  } catch {
    // There is no server, or no clock in its answers.
  }
}

/** A message has this time: it is not later than now. */
export function seeTime(at) {
  ahead = Math.max(ahead, at - Date.now());
}
