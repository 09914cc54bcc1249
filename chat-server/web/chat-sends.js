// Messages of a room on their way to the server. They go one after the other, so that a message
// that has to be sent again is never overtaken, and each under a key, so that it is taken once
// however often it is sent.

import { ChatError, isCertain, isLost, isPassing, outcome, pauseAfter } from "./chat-answer.js";
import { KNOWN_MS } from "./chat-numbers.js";
import { clearDeadline, elapsedSince, moment, now, setDeadline, unref } from "./chat-time.js";

export class Sends {
  /** Oldest first. Only the first is ever on its way: its `stage` is `due` in its turn, `sent` on the
   *  wire, `paused` after an error, else `waiting`; `isUnknown`: a server may have taken it without
   *  saying so. */
  #queue = [];
  /** What the queues of all rooms share. */
  #all;
  #isOpen = false;
  /** When the messages have moved: those behind the first are not late before. */
  #movedAt = 0;
  /** Whether that time was renewed since, because the process slept. */
  #isRenewed = false;
  #deadline;

  /** `all`: `requests`, `options`, how many messages wait in all rooms, `count` and `bytes`, and
   *  `onDelay({room, key, error})`: a message is tried again later. */
  constructor(all) {
    this.#all = all;
  }

  /** Queues a message, in a frame of so many bytes. Resolves to its place. */
  add(frame, bytes) {
    return outcome((resolve, reject) => {
      if (this.#queue.length === 0) this.#moved();
      this.#queue.push({ frame, bytes, resolve, reject, addedAt: now(), stage: "waiting" });
      this.#all.count += 1;
      this.#all.bytes += bytes;
      this.#next();
    });
  }

  /** The client is in the room, and sends what waits. */
  open() {
    this.#isOpen = true;
    this.#next();
  }

  /** The client is not in the room any more. With an `error` all messages fail. */
  close(error) {
    this.#isOpen = false;
    if (error) this.#failAll(error);
  }

  /** To another user the keys mean nothing: what may have been taken would be taken twice.
   *  `isNamed`: a token names the user, who is another person. */
  becomeOther(isNamed) {
    if (isNamed) this.#failAll(new ChatError("other_user"));
    else if (this.#queue[0]?.isUnknown) this.#fail(1);
  }

  /** The client received a message of its own: if it is one of these, it was taken, even if the
   *  answer was lost. */
  seen(message) {
    const send = this.#queue.find(({ frame }) => frame.key === message.key);
    this.#taken(send, message);
  }

  /** Sends the first message if it may be sent, else watches its deadline. */
  #next() {
    const [send] = this.#queue;
    if (this.#isOpen && send?.stage === "waiting") this.#attempt(send);
    else this.#watch();
  }

  #attempt(send) {
    if (send.sentAt && elapsedSince(send.sentAt) > KNOWN_MS) {
      this.#fail(1);
      return;
    }
    const isWanted = () => send === this.#queue[0];
    this.#become(send, "due");
    this.#all.requests.request(send.frame, {
      isWanted,
      onSent: () => {
        if (!send.sentAt) this.#moved();
        send.sentAt ??= moment();
        this.#become(send, "sent");
      },
      resolve: (answer) => this.#taken(send, answer),
      reject: (error) => isWanted() && this.#refused(send, error),
    });
  }

  #refused(send, error) {
    send.stage = "waiting";
    if (!isPassing(error)) {
      this.#fail(1, () => error);
      return;
    }
    send.isUnknown ||= !isCertain(error);
    if (isLost(error)) {
      // The next connection takes it along.
      this.#watch();
      return;
    }
    send.error = error;
    this.#become(send, "paused");
    const resume = () => {
      send.stage = "waiting";
      this.#next();
    };
    // The deadline keeps a process alive.
    unref(setTimeout(resume, pauseAfter(error)));
    const { room, key } = send.frame;
    this.#all.onDelay({ room, key, error });
  }

  #become(send, stage) {
    send.stage = stage;
    this.#watch();
  }

  /** Waits until the first message is late, which it is not while it waits for its turn. */
  #watch() {
    clearDeadline(this.#deadline);
    const [send] = this.#queue;
    if (!send || send.stage === "due") return;
    const expire = () => {
      // Those behind the first may be late, too.
      const inTime = this.#queue.findIndex((send) => this.#lateAt(send) > now());
      this.#fail(inTime < 0 ? this.#queue.length : inTime);
    };
    // Once: in a page that is hidden for long every timer is late.
    const renew = () => {
      this.#moved();
      this.#isRenewed = true;
      this.#watch();
    };
    const ms = Math.ceil(this.#lateAt(send) - now());
    this.#deadline = setDeadline(expire, ms, this.#isRenewed ? expire : renew);
  }

  #lateAt({ addedAt }) {
    return Math.max(addedAt, this.#movedAt) + this.#all.options.sendTimeoutMs;
  }

  #taken(send, { offset, epoch }) {
    const index = this.#queue.indexOf(send);
    if (index < 0) return;
    this.#moved();
    this.#remove(index, 1);
    send.resolve({ key: send.frame.key, offset, epoch });
    this.#next();
  }

  /** The first `count` messages fail, each with the error that `why(send)` returns, unless it may
   *  have been taken. */
  #fail(count, why = late) {
    for (const send of this.#remove(0, count)) {
      const isUnknown = send.isUnknown || send.stage === "sent";
      send.reject(isUnknown ? new ChatError("outcome_unknown") : why(send));
    }
    this.#next();
  }

  #failAll(error) {
    this.#fail(this.#queue.length, () => error);
  }

  #remove(index, count) {
    const removed = this.#queue.splice(index, count);
    for (const { bytes } of removed) this.#all.bytes -= bytes;
    this.#all.count -= removed.length;
    return removed;
  }

  /** The first is another one, has left for the first time, or was taken. */
  #moved() {
    this.#movedAt = now();
    this.#isRenewed = false;
  }
}

/** Why a message that was not taken in time has failed. */
function late({ error }) {
  return error ?? new ChatError("timeout");
}
