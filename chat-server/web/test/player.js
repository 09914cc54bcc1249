// Plays one vector with the module: does what its steps say, and compares the events.
// chat-core/tests/vectors/README.md describes the format.

import { deepStrictEqual, fail, ok, strictEqual } from "node:assert";

import { ChatClient } from "../chat-client.js";
import { FakeTime, fakeWebSocket, settled } from "./fakes.js";

/** What a browser reports of a connection that ended without a close frame. */
const LOST = 1006;

const EVENTS = [
  "state", "joined", "message", "presence", "typing", "direct", "undelivered", "gap", "refused",
  "capabilities", "left", "goodbye", "error",
];

/** What a step may have beside its one input. */
const OUTPUTS = ["wire", "events", "results"];

/** The methods of the client, by the names of the calls. */
const CALLS = {
  join: (client, { room, history, since }) => client.join(room, { history, since }),
  leave: (client, { room }) => client.leave(room),
  send: (client, { room, message, data, key }) => client.send(room, message, { data, key }),
  direct: (client, { to, message, data }) => client.direct(to, message, { data }),
  members: (client, { room }) => client.members(room),
  history: (client, { room, before, after, limit }) => client.history(room, { before, after, limit }),
  typing: (client, { room, typing }) => client.typing(room, typing),
  close: (client) => client.close(),
};

export class Player {
  #time = new FakeTime();
  /** What `$name` stands for. */
  #bindings;
  #client;
  #socket;
  /** The application's pending answer to a question for a token. */
  #token;
  /** What came out in the present step. */
  #out;
  #step;
  /** By step, whether a number that has to be above another one once has been. */
  #once;

  /** The server that has to send what the client receives, if there is one. */
  #server;

  /** Plays steps in which some names are bound already, so many times. */
  static async play(steps, bindings, plays = 1) {
    const once = new Map();
    for (let play = 0; play < plays; play += 1) await new Player(bindings, once).#playAll(steps);
    for (const [step, wasAbove] of once) ok(wasAbove, `step ${step + 1}: never above`);
  }

  /** Plays steps once, with a server: `expect(frame, code)` is called before the client receives a
   *  frame, with the code of the close that follows; `closed(code)`; and `take(action, answer)` for
   *  what the client does, with the answer to a request in the vector. */
  static async playWith(server, steps, bindings) {
    await new Player(bindings, new Map(), server).#playAll(steps);
  }

  constructor(bindings, once, server) {
    this.#bindings = new Map(Object.entries(bindings));
    this.#once = once;
    this.#server = server;
  }

  async #playAll(steps) {
    this.#time.install();
    try {
      for (const [index, step] of steps.entries()) {
        const later = steps.slice(index + 1);
        const { receive, closed, wire = [] } = this.#server ? step : {};
        const code = this.#filled(later.find((step) => step.closed)?.closed.code);
        if (receive) await this.#server.expect(this.#filled(receive), code);
        if (closed) await this.#server.closed(this.#filled(closed.code));
        await this.#play(step, index);
        for (const [position, { send }] of wire.entries()) {
          const answer = send && later.find(({ receive }) => receive?.id === send.id)?.receive;
          const code = this.#filled(answer?.code);
          await this.#server.take(this.#out.wire[position], answer && { ...answer, code });
        }
      }
    } finally {
      this.#time.uninstall();
    }
  }

  async #play(step, index) {
    this.#step = index;
    const [input, ...more] = Object.keys(step).filter((key) => !OUTPUTS.includes(key));
    const where = `step ${index + 1}, ${JSON.stringify({ [input]: step[input] })}`;
    strictEqual(more.length, 0, `${where}: one input`);
    this.#out = { wire: [], events: [], results: {} };
    await this.#inputs[input](this.#filled(step[input]));
    await settled();
    const { wire = [], events = [], results = {} } = step;
    for (const [kind, expected] of Object.entries({ wire, events, results })) {
      const actual = this.#out[kind];
      const shown = `${where}\n${kind}: ${JSON.stringify(actual)}\nexpected: ${JSON.stringify(expected)}`;
      if (Object.keys(actual).length !== Object.keys(expected).length) fail(shown);
      this.#match(expected, actual, shown);
    }
  }

  #inputs = {
    start: (options) => this.#start(options),
    call: ({ as, do: name, ...options }) => this.#note(as, CALLS[name](this.#client, options)),
    opened: () => this.#socket.open(),
    failed: () => this.#socket.end(LOST),
    closed: ({ code = LOST, reason }) => this.#socket.end(code, reason),
    receive: (frame) => this.#socket.receive(JSON.stringify(frame)),
    receive_text: (text) => this.#socket.receive(text),
    advance_ms: (ms) => this.#time.advance(ms),
    await_ms: (ms) => this.#time.advance(ms, () => this.#out.wire.length > 0),
    token: (token) => this.#token.resolve(token),
    token_failed: (kind) =>
      this.#token.reject(Object.assign(new Error("There is none."), kind === "unauthorized" && { code: kind })),
  };

  #start({ token, ...options }) {
    const wire = (action) => this.#out.wire.push(action);
    const asked = () => {
      wire({ ask_token: {} });
      return new Promise((resolve, reject) => (this.#token = { resolve, reject }));
    };
    const WebSocket = fakeWebSocket(wire, (socket) => (this.#socket = socket));
    const given = { ...options, WebSocket, token: token === "asked" ? asked : token };
    this.#client = new ChatClient("ws://chat.example/ws", given);
    for (const event of EVENTS) this.#client.on(event, (detail) => this.#onEvent(event, detail));
    this.#client.connect();
  }

  #onEvent(event, detail) {
    const { state, retryInMs, code, error } = detail;
    // The wire shows it.
    if (state === "connecting") return;
    const shown = event === "state" ? { state, code, retry_in_ms: retryInMs } : { ...detail };
    if (event === "refused") shown.error = error.code;
    if (event === "error") shown.code = code;
    this.#out.events.push({ ...shown, event, ...(event === "presence" && { change: detail.event }) });
  }

  /** Notes the outcome of a call that the vector has given a name. */
  #note(name, outcome) {
    outcome?.then(
      (ok) => name && (this.#out.results[name] = { ok: ok ?? {} }),
      ({ code }) => name && (this.#out.results[name] = { error: code }),
    );
  }

  /** An input, in which each `$name` is replaced by what it stands for. */
  #filled(value) {
    if (typeof value === "string" && value.startsWith("$")) {
      return this.#bindings.get(value.slice(1)) ?? fail(`${value} is not bound`);
    }
    if (typeof value !== "object" || value === null) return value;
    if (Array.isArray(value)) return value.map((item) => this.#filled(item));
    return Object.fromEntries(Object.entries(value).map(([key, field]) => [key, this.#filled(field)]));
  }

  #match(expected, actual, shown) {
    if (expected === null) {
      if (actual !== undefined && actual !== null) fail(shown);
    } else if (typeof expected === "string" && expected.startsWith("$")) {
      this.#bind(expected.slice(1), actual, shown);
    } else if (expected?.$null) {
      strictEqual(actual, null, shown);
    } else if (expected?.$between) {
      const { $between: [least, most], $once_above: limit } = expected;
      if (!(actual > least && actual <= most)) fail(shown);
      if (limit !== undefined) this.#once.set(this.#step, this.#once.get(this.#step) || actual > limit);
    } else if (typeof expected !== "object") {
      deepStrictEqual(actual, expected, shown);
    } else {
      if (typeof actual !== "object" || actual === null) fail(shown);
      if (Array.isArray(expected)) strictEqual(actual.length, expected.length, shown);
      for (const key of Object.keys(expected)) this.#match(expected[key], actual[key], shown);
    }
  }

  /** The first value of a name is any, and the others are the same. */
  #bind(name, actual, shown) {
    if (actual === undefined || actual === null) fail(shown);
    if (this.#bindings.has(name)) deepStrictEqual(actual, this.#bindings.get(name), shown);
    else this.#bindings.set(name, actual);
  }
}
