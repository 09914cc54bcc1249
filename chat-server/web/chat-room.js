// One room as a client knows it: up to where its copy of the messages is whole, and what
// of all that comes is new. It sends nothing: chat-client.js does.

/** Messages beyond a hole that are kept until it is repaired; the server sends more again. */
const MOST_HELD = 256;

export class RoomCopy {
  /** Where the copy ends: `{epoch, offset}`; undefined in a room without history. */
  position;
  /** Messages beyond a hole, while there is one. */
  #held = null;

  get hasHole() {
    return this.#held !== null;
  }

  /** Takes the answer to a join that gave this copy's position. Returns what is `missed`
   *  for good, as the place before the next message, and the `messages` that are new. */
  enter(joined) {
    const { recovered, messages = [] } = joined;
    const [known, held] = [this.position, this.#held ?? []];
    this.position = positionOf(joined);
    this.#held = null;
    const isSame = known !== undefined && known.epoch === this.position?.epoch;
    const news = messages.filter((message) => !isSame || message.offset > known.offset);
    if (!recovered || !this.position) {
      const missed = positionOf(joined) ?? {};
      if (news.length > 0) missed.offset = news[0].offset - 1;
      return { missed, messages: news };
    }
    return { messages: [...news, ...held.filter((message) => this.#isNext(message))] };
  }

  /** Takes a message. Tells whether it is the next one; what is beyond a hole is held. */
  take(message) {
    if (this.position === undefined || message.offset === undefined) return true;
    if (this.#held === null && this.#isNext(message)) return true;
    if (message.offset > this.position.offset) this.#hold(message);
    return false;
  }

  /** The server has lost messages up to a place. Tells whether that is news: while there is
   *  a hole, the answer to come says what is lost. */
  skip(gap) {
    if (this.#held !== null) return false;
    this.position = positionOf(gap);
    return true;
  }

  /** What `enter` gave beyond a position was not delivered, and is to be sent again. */
  rewind(position) {
    this.position = position;
  }

  /** Nothing more comes on this connection. */
  disconnect() {
    this.#held = null;
  }

  /** Moves on to a message if it is the next one. */
  #isNext({ epoch, offset }) {
    // The first message of a sequence says which one it is.
    const isFirst = epoch !== undefined && epoch !== this.position.epoch;
    if (offset !== (isFirst ? 1 : this.position.offset + 1)) return false;
    this.position = { epoch: epoch ?? this.position.epoch, offset };
    return true;
  }

  #hold(message) {
    this.#held ??= [];
    if (this.#held.length < MOST_HELD) this.#held.push(message);
  }
}

function positionOf({ epoch, offset }) {
  return offset === undefined ? undefined : { epoch, offset };
}
