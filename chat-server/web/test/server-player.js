// The server's side of a vector: what the client sends is sent to a `TestServer`, and what the
// client receives there has to be what the `TestServer` sends.

import { fail } from "node:assert";

import { TestServer } from "../chat-testing.js";
import { settled } from "./fakes.js";

/** Values that differ between any two runs of a server. */
const INCOMPARABLE = new Set(["at", "session"]);

/** Values that each server makes up: what is the same in a vector is the same in its run. */
const MADE_UP = new Set(["id", "epoch", "resume", "node", "color"]);

/** The author of the messages that a vector does not show. */
const BOB = { id: "u2", name: "Bob", color: "#F28C38" };

/** What happens to a room, or to a user, that a frame without an id reports. */
const CAUSES = {
  message: (server, { room, user, message, data, key }) => server.say(room, user, message, { data, key }),
  presence: (server, { room, event, user }) => server[event === "left" ? "leave" : "join"](room, user),
  typing: (server, { room, user, typing }) => server.typing(room, user, typing),
  direct: (server, { user, message, data }, { self }) => server.direct(self, user, message, { data }),
  gap: (server, { room }) => server.forget(room),
  left: (server, { room, message, reason }, { self }) => server.kick(room, self, message, reason),
  goodbye: (server, { type, ...goodbye }, { code }) => {
    if (goodbye.reason !== "moved") return server.goodbye(code, goodbye);
    // That of a later server.
    server.push({ type, ...goodbye });
    server.drop(code);
  },
};

/** What the users of the vectors may do. */
const CAPABILITIES = ["join", "send", "direct", "history", "presence", "moderate"];

/** A `TestServer` beside a client that plays a vector. */
export class ServerPlayer {
  #server;
  /** Whom the next token names. */
  #user;
  #socket = null;
  /** Frames of the `TestServer` that no step has expected yet. */
  #inbox = [];
  /** What the `TestServer` made up, by field and by the vector's value. */
  #madeUp = new Map();

  constructor(steps) {
    const welcome = steps.find(({ receive }) => receive?.type === "welcome")?.receive ?? {};
    const { limits, expires_in_ms: expiresInMs } = welcome;
    const hasTokens = steps.some(({ start }) => start?.token !== undefined);
    const userOf = hasTokens ? () => this.#user : undefined;
    this.#server = new TestServer({ limits, expiresInMs, userOf, can: () => CAPABILITIES });
  }

  /** The client acts. `answer`: what the vector answers to its request. */
  async take({ connect, send, close }, answer) {
    if (connect) {
      this.#inbox = [];
      this.#socket = new this.#server.WebSocket("ws://chat.example/ws", ["chat.v1"]);
      this.#socket.onmessage = ({ data }) => this.#inbox.push(JSON.parse(data));
    }
    if (send) this.#request(send, answer);
    if (close) this.#socket.close(close.code);
    await settled();
  }

  /** The connection ends. */
  async closed(code) {
    this.#server.drop(code);
    await settled();
  }

  /** The client receives a frame: an answer, or one that the server sends for a cause. */
  async expect(frame, code) {
    if (this.#take(frame)) return;
    if (frame.id === undefined) {
      // Messages before it were lost on the way.
      if (frame.type === "message") this.#bring({ ...frame, offset: frame.offset - 1 });
      const self = this.#madeUp.get("id u1");
      CAUSES[frame.type]?.(this.#server, this.#filled(frame), { code, self });
      await settled();
    }
    if (!this.#take(frame)) fail(`${JSON.stringify(frame)} is not among ${JSON.stringify(this.#inbox)}`);
  }

  #request(frame, answer) {
    // What the vector does not answer was lost before it reached the server.
    if (frame.id !== undefined && !answer) return;
    if (answer?.type === "error") {
      const { type, id, code, retry_after_ms: retryAfterMs, ...more } = answer;
      this.#server.refuse(frame.type, code, { retryAfterMs, ...more });
    }
    if (answer?.type === "welcome") this.#user = answer.user;
    if (answer?.type === "joined") {
      this.#bring(answer);
      // The room of the vector may keep fewer messages than the client asks for.
      frame = { ...frame, history: answer.messages.length };
    }
    this.#socket.send(JSON.stringify(this.#filled(frame)));
  }

  /** Brings a room to the position of an answer, by the messages of the answer. */
  #bring({ room, epoch, offset, messages = [] }) {
    const present = this.#server.position(room).epoch;
    const name = nameOf("epoch", room, epoch);
    if (present !== "" && epoch !== undefined && this.#madeUp.get(name) !== present) this.#server.forget(room);
    for (let next = this.#server.position(room).offset + 1; next <= offset; next += 1) {
      const said = messages.find((message) => message.offset === next) ?? { user: BOB, message: `m${next}` };
      CAUSES.message(this.#server, { ...this.#filled(said), room });
    }
    // A request may name the epoch that an earlier client saved.
    if (offset > 0 && !this.#madeUp.has(name)) this.#madeUp.set(name, this.#server.position(room).epoch);
  }

  /** Takes a frame out of the inbox. Returns whether it is there. */
  #take(frame) {
    for (const [index, actual] of this.#inbox.entries()) {
      const madeUp = new Map(this.#madeUp);
      if (!isSame(frame, actual, madeUp, frame.room)) continue;
      this.#madeUp = madeUp;
      this.#inbox.splice(index, 1);
      return true;
    }
    return false;
  }

  /** A frame of the vector with the values that the `TestServer` made up. */
  #filled(frame) {
    const fill = (value, field) => {
      if (value === null) return undefined;
      if (field === "data") return value;
      if (Array.isArray(value)) return value.map((item) => fill(item));
      if (typeof value === "object") {
        return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, fill(part, name)]));
      }
      const kind = ["to", "user"].includes(field) ? "id" : field;
      return this.#madeUp.get(nameOf(kind, frame.room, value)) ?? value;
    };
    return fill(frame);
  }
}

/** Whether a frame has the fields that the vector's has. Notes in `madeUp` what stands for what. */
function isSame(expected, actual, madeUp, room, field) {
  if (INCOMPARABLE.has(field) || (field === "epoch" && room === undefined)) return true;
  if (typeof expected === "object" && expected !== null) {
    if (typeof actual !== "object" || actual === null) return false;
    if (Array.isArray(expected) && expected.length !== actual.length) return false;
    return Object.keys(expected).every((name) => isSame(expected[name], actual[name], madeUp, room, name));
  }
  if (!MADE_UP.has(field) || actual === undefined) return (expected ?? undefined) === (actual ?? undefined);
  const name = nameOf(field, room, expected);
  if (!madeUp.has(name)) madeUp.set(name, actual);
  return madeUp.get(name) === actual;
}

/** The name of a value in `#madeUp`. Each room has its own epochs. */
function nameOf(field, room, value) {
  return field === "epoch" ? `epoch ${room} ${value}` : `${field} ${value}`;
}
