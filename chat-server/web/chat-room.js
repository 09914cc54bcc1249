// One room as a client knows it: whether the client is there, the position at which its copy of the
// room's sequence ends, and what of all that is received is new. chat-client.js joins and leaves it.

export class Membership {
  room;
  /** Where the copy ends: `{epoch, offset}`; undefined in a room without history. */
  position;
  /** How many of the latest messages to ask for, without a position. */
  history;
  /** The messages that are on their way to the room. */
  sends;
  /** Whether the client is in the room, on this connection. */
  isJoined = false;
  /** Whether it was so before. */
  rejoins = false;
  /** The join that is to be answered. */
  asked = null;
  /** The timer of the next join, after one that was refused. */
  retry;
  /** Whether a join has been sent on this connection. */
  isKnown = false;
  /** When the members were told that the user is typing; `-Infinity` if the user is not. */
  typedAt = -Infinity;
  /** What the user may do in the room, if the server has said so. */
  can;
  /** Who waits for the first join. */
  #waiting = [];

  /** `position`: where the copy of an earlier client ended. */
  constructor(room, position, history, sends) {
    Object.assign(this, { room, position, history, sends });
  }

  /** The outcome of the next join. */
  wait(resolve, reject) {
    this.#waiting.push({ resolve, reject });
  }

  /** The client is in the room. */
  open(joined) {
    for (const { resolve } of this.#waiting.splice(0)) resolve(joined);
    this.sends.open();
  }

  /** The client is not in the room any more. With an `error` all that waits for the room fails. */
  close(error) {
    clearTimeout(this.retry);
    Object.assign(this, { isJoined: false, asked: null, isKnown: false });
    if (error) for (const { reject } of this.#waiting.splice(0)) reject(error);
    this.sends.close(error);
  }

  /** The client is in the room: takes the answer to a join that gave this copy's position. Returns
   *  the `messages` that are new, and what is `missed` for good, as the position before the next one. */
  enter(joined) {
    const { recovered, messages = [], can } = joined;
    const before = this.position;
    // A client that was in the room asks for missed messages, not for the latest ones.
    Object.assign(this, { isJoined: true, rejoins: true, asked: null, history: undefined, can });
    const now = (this.position = positionOf(joined));
    if (!now) return { missed: {}, messages };
    const isSame = before?.epoch === now.epoch;
    const news = messages.filter(({ offset }) => !isSame || offset > before.offset);
    if (recovered && before && leads(before, now, news)) return { messages: news };
    const offset = news.length > 0 ? news[0].offset - 1 : now.offset;
    return { missed: { epoch: now.epoch, offset }, messages: news };
  }

  /** What an entry is to this copy: the `next`, to which it moves on, a `repeat`, or one behind a
   *  `hole`. */
  step({ epoch, offset }) {
    const { position } = this;
    if (!position) return "next";
    // The first of a sequence names its epoch, which is no news in a room that was empty. In any
    // other room a new epoch without a `gap` before it says that the end of the old one is missing.
    const isSame = epoch === undefined || epoch === position.epoch || isEmpty(position);
    if (!isSame || offset > position.offset + 1) return "hole";
    if (offset <= position.offset) return "repeat";
    this.position = { epoch: epoch ?? position.epoch, offset };
    return "next";
  }
}

/** Whether entries lead from one position to another without a hole: a server that says
 *  `recovered` is believed only then. */
function leads(before, now, entries) {
  const isSame = before.epoch === now.epoch || isEmpty(before);
  const isWhole = entries.every(({ offset }, index) => offset === before.offset + 1 + index);
  return isSame && isWhole && now.offset === before.offset + entries.length;
}

/** The position of a room in which nothing was ever sent. */
function isEmpty({ epoch, offset }) {
  return epoch === "" && offset === 0;
}

/** The position that a frame has; none in a room without history. */
export function positionOf({ epoch, offset }) {
  return offset === undefined ? undefined : { epoch, offset };
}
