// One room as a client knows it: the position at which its copy of the room's sequence ends, and
// what of all that is received is new. It sends nothing: chat-client.js does.

export class RoomCopy {
  /** Where the copy ends: `{epoch, offset}`; undefined in a room without history. */
  position;

  /** `position`: where the copy of an earlier client ended. */
  constructor(position) {
    this.position = position;
  }

  /** Takes the answer to a join that gave this copy's position. Returns the `messages` that are
   *  new, and what is `missed` for good, as the position before the next message. */
  enter(joined) {
    const { recovered, messages = [] } = joined;
    const before = this.position;
    const now = (this.position = positionOf(joined));
    if (!now) return { missed: {}, messages };
    const isSame = before?.epoch === now.epoch;
    const news = messages.filter(({ offset }) => !isSame || offset > before.offset);
    if (recovered && before && leads(before, now, news)) return { messages: news };
    const offset = news.length > 0 ? news[0].offset - 1 : now.offset;
    return { missed: { epoch: now.epoch, offset }, messages: news };
  }

  /** What an entry is to this copy: the `next`, a `repeat`, or one behind a `hole`. */
  step({ epoch, offset }) {
    if (this.position === undefined) return "next";
    // The first of a sequence names its epoch, which is no news in a room that was empty. In any
    // other room a new epoch without a `gap` before it says that the end of the old one is missing.
    const isSame = epoch === undefined || epoch === this.position.epoch || isEmpty(this.position);
    if (!isSame || offset > this.position.offset + 1) return "hole";
    return offset === this.position.offset + 1 ? "next" : "repeat";
  }

  /** Moves on to the next entry. */
  advance({ epoch, offset }) {
    if (this.position === undefined) return;
    this.position = { epoch: epoch ?? this.position.epoch, offset };
  }

  /** The server has lost what lies before a position. */
  skip(gap) {
    this.position = positionOf(gap);
  }

  /** What `enter` gave beyond a position was not delivered, and is to be sent again. */
  rewind(position) {
    this.position = position;
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

function positionOf({ epoch, offset }) {
  return offset === undefined ? undefined : { epoch, offset };
}
