// Time as the module measures it: on clocks that run on, and with deadlines that are fair to a
// server whose answers a sleeping process could not read.

/** How late a timer may be before the process must have slept. */
const LATE_MS = 1_000;

/** Milliseconds on a monotonic clock. */
export function now() {
  return performance.now();
}

/** The present moment, for `elapsedSince`. */
export function moment() {
  return { clock: now(), wall: Date.now() };
}

/** Milliseconds since a moment, by the clock that shows more: on some devices the monotonic clock
 *  stops during sleep, and the wall clock may be set back. */
export function elapsedSince({ clock, wall }) {
  return Math.max(now() - clock, Date.now() - wall);
}

/** As `setTimeout`. But if the process slept, or the page was frozen, what the server sent in time
 *  may not have been read yet: then it calls `onSlept`, or without one waits once more. So it does if
 *  the time had passed before, and `ms` is below 0. Returns what `clearDeadline` takes. */
export function setDeadline(onPassed, ms, onSlept) {
  const start = moment();
  const deadline = {};
  const again = onSlept ?? (() => (deadline.timer = setTimeout(onPassed, ms)));
  const end = () => (elapsedSince(start) - ms < LATE_MS ? onPassed() : again());
  deadline.timer = setTimeout(end, Math.max(0, ms));
  return deadline;
}

/** Returns a deadline, or a timer, which does not keep a process of Node.js alive. */
export function unref(deadline) {
  (deadline.timer ?? deadline).unref?.();
  return deadline;
}

/** Ends a deadline, or a timer. */
export function clearDeadline(deadline) {
  clearTimeout(deadline?.timer ?? deadline);
}
