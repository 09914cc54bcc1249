// The server's clock. Messages carry its time, and all that stands between them is dated by it,
// too: the clock of the device may be days off, or be set, and one list has one clock.

import { HOME } from "./place.js";

/** How long its reading may hold up the page. */
const READING_MS = 2_000;

/** More than this between two clocks is no inaccuracy. */
const DRIFT_MS = 1_000;

/** The server's time at one moment, and the times of two other clocks then: a monotonic one, which may
 *  stop while the device sleeps, and the wall clock. Without a reading, the device's clock is used. */
let reading = { at: Date.now(), clock: performance.now(), wall: Date.now() };

/** Milliseconds since 1970, by the server's clock. */
export function serverNow() {
  return reading.at + performance.now() - reading.clock;
}

/** Reads it, from the header of an answer. */
export async function readClock() {
  try {
    const asked = performance.now();
    const options = { method: "HEAD", cache: "no-store", signal: AbortSignal.timeout(READING_MS) };
    const at = Date.parse((await fetch(HOME, options)).headers.get("date"));
    const answered = performance.now();
    if (!Number.isNaN(at)) reading = { at, clock: (asked + answered) / 2, wall: Date.now() };
  } catch {
    // There is no server, or no clock in its answers.
  }
}

/** Reads it again if the device may have slept. */
export function correctClock() {
  const drift = Date.now() - reading.wall - (performance.now() - reading.clock);
  if (Math.abs(drift) > DRIFT_MS) readClock();
}

/** A message has this time: it is not later than now. */
export function seeTime(at) {
  reading.at += Math.max(0, at - serverNow());
}
