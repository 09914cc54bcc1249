// The connection to a chat server, and its reconnects: token, welcome, loss, backoff. chat-client.js
// handles rooms and messages.

import { ChatError, defined, isPassing, outcome, pauseAfter } from "./chat-answer.js";
import { readFrame } from "./chat-frames.js";
import { NAME_RULE, isName, textOf } from "./chat-limits.js";
import {
  CLOSE_AFTER_ERROR_MS,
  CLOSING_MS,
  LONGEST_MS,
  LOST,
  MAX_TIMEOUT_FACTOR,
  POLICY_VIOLATION,
  RENEW_AGAIN_MS,
  SHORTEST_MS,
  STABLE_AFTER_VIOLATION_MS,
  STABLE_MS,
  TOKEN_EXPIRED,
  TOO_BIG,
} from "./chat-numbers.js";
import { Requests } from "./chat-requests.js";
import { signs } from "./chat-signs.js";
import { clearDeadline, now, setDeadline, unref } from "./chat-time.js";
import { Unauthorized, tokenSource } from "./chat-token.js";

/** Close codes after which a client does not connect again by itself; docs/protocol.md has all. */
const FINAL_CODES = [1000, 1002, 1003, 1007, 4002, 4003, 4004];

/** What ended the client, by close code, and the code of its error if that is not `closed`; any
 *  other close code is the server's. */
const ENDED_BY = { 4002: ["kick", "kicked"], 4003: ["ban", "banned"], [TOKEN_EXPIRED]: ["token_expired", "unauthorized"], [TOO_BIG]: ["server", "too_large"] };

const DEFAULTS = {
  requestTimeoutMs: 15_000,
  connectTimeoutMs: 10_000,
  backoffBaseMs: 500,
  backoffCapMs: 20_000,
  pingAfterMs: 25_000,
  pongTimeoutMs: 10_000,
  checkTimeoutMs: 5_000,
  sendTimeoutMs: 30_000,
  tokenTimeoutMs: 120_000,
  queueLimit: 20_000,
  queueBytes: 2 ** 24,
};

export class Connection {
  /** The detail of the latest `state` event. */
  status = { state: "idle" };
  /** The server's last `welcome`. */
  welcome = null;
  /** Whether it named another user than the one before; and whether by a token: another person. */
  isOtherUser = false;
  isOtherPerson = false;
  requests = new Requests(this);
  /** The options of the client, with their defaults, and with the present `name` and `resume`. */
  options;
  #url;
  #onStatus;
  #onFrame;
  /** The present attempt, or connection: one object each. */
  #line;
  #socket;
  /** The promise of `connect`, and what settles it: `#settle(error)`, or without an error `#settle()`. */
  #connecting;
  #settle;
  /** Resolves to another token, where there can be one. */
  #tokens;
  /** Whether the token is older than the latest `renew()`. */
  #isOutdated = false;
  /** Of the present connection. */
  #token;
  #attempt = 0;
  #goodbye;
  /** When the latest connection received `welcome`. */
  #onlineSince = Infinity;
  /** When the last frame was received. */
  #receivedAt = 0;
  /** The deadline for a frame after a ping. */
  #answerDueAt = Infinity;
  /** How many times as long an answer may take: twice as long after each connection that was
   *  abandoned for silence, until nothing is unanswered. A server that is silent while it asks its
   *  application about a join, and a page that sees nothing of a large answer before it is whole,
   *  would else lose one connection after another. */
  #timeoutFactor = 1;
  /** Whether a sign or the application asked for a check, and nothing was received since. */
  #isChecking;
  /** Timers and deadlines of the connection, by name. */
  #timers = {};
  /** Begins and ends the watch for signs that the connection may have died. */
  #watchSigns = signs((type) => {
    if (type === "pagehide") this.#suspend();
    // The connection may have died, or the network may be back.
    else if (this.isOnline || type !== "offline") this.check();
  });

  /** `onStatus(status)` is called at each change of state, and `onFrame(frame)` for each frame that
   *  answers nothing. */
  constructor(url, options, onStatus, onFrame) {
    this.#url = String(url);
    // An option without a value is the same as a missing one.
    this.options = { ...DEFAULTS, WebSocket: globalThis.WebSocket, ...defined(options) };
    for (const name in DEFAULTS) {
      const number = Math.min(this.options[name], LONGEST_MS);
      if (!(number >= 0)) throw new TypeError(`${name} is no number from 0 on.`);
      this.options[name] = number;
    }
    this.#onStatus = onStatus;
    this.#onFrame = onFrame;
    const { token, tokenTimeoutMs } = this.options;
    const give = () => {
      this.#isOutdated = false;
      return token();
    };
    if (typeof token === "function") this.#tokens = tokenSource(give, tokenTimeoutMs);
  }

  get state() {
    return this.status.state;
  }

  get isOnline() {
    return this.state === "online";
  }

  /** Connects; does not wait any longer if an attempt is due later. The promise settles in time;
   *  attempts go on. */
  connect() {
    if (this.isOnline) return Promise.resolve(this.welcome);
    const connecting = (this.#connecting ??= outcome((resolve, reject) => {
      const timer = setTimeout(() => this.#settle(new ChatError("timeout")), this.options.sendTimeoutMs);
      this.#settle = (error) => {
        clearTimeout(timer);
        this.#connecting = null;
        if (error) reject(error);
        else resolve(this.welcome);
      };
    }));
    if (!this.#line) this.#open();
    return connecting;
  }

  /** Replaces the connection by one with another name. The code 1000 would say that the user leaves. */
  rename(name) {
    if (this.state === "closed") throw new ChatError("closed");
    if (name !== undefined && !isName(name)) throw new ChatError("bad_field", NAME_RULE);
    this.options.name = name;
    this.#hangUp();
    this.status = { state: "idle" };
    return this.connect();
  }

  close() {
    if (this.state === "closed") return;
    this.#hangUp(1000);
    this.#end({ code: 1000, by: "client" });
  }

  /** Pings the server at once; between two attempts, connects. If an attempt fails after it, the next one
   *  follows without a pause: the network may have been dead when the attempt began. */
  check() {
    if (this.state === "waiting") this.connect();
    else if (this.#line) {
      this.#isChecking = true;
      if (this.isOnline) this.#ask(this.options.checkTimeoutMs);
    }
  }

  /** Gives the server a token that the application is asked for from now on. */
  renew() {
    this.#isOutdated = true;
    if (this.isOnline && this.#tokens) this.#renewIn(0);
  }

  /** The text of a frame. Throws if it cannot be sent; `isEarly`: it may be before there is a
   *  connection. */
  textOf(frame, isEarly) {
    if (this.state === "closed") throw new ChatError("closed");
    if (!this.isOnline && !isEarly) throw new ChatError("offline");
    return textOf(frame, this.welcome?.limits);
  }

  /** Sends a text. Returns whether there was a connection to send it to. */
  write(text) {
    const socket = this.#socket;
    const isOpen = socket?.readyState === 1;
    if (isOpen) socket.send(text);
    return isOpen;
  }

  #open() {
    clearDeadline(this.#timers.retry);
    this.#goodbye = null;
    this.#watchSigns("addEventListener");
    const line = (this.#line = {});
    this.#change({ state: "connecting" });
    // A handler of that may have ended it.
    if (line !== this.#line) return;
    if (!this.#tokens) {
      this.#connect(this.options.token);
      return;
    }
    // Before there is a connection: the server does not wait long for a token.
    this.#askToken(
      (token) => this.#connect(token),
      (error) => this.#closed(LOST, `There is no token: ${error?.message ?? error}`),
    );
  }

  #askToken(onToken, onError) {
    const failed = (error) => (error instanceof Unauthorized ? this.#giveUp(error) : onError(error));
    this.#tokens().then(this.#unlessOver(onToken), this.#unlessOver(failed));
  }

  /** Calls `handler` unless this connection, or attempt, is over by then. */
  #unlessOver(handler) {
    const line = this.#line;
    return (detail) => line === this.#line && handler(detail);
  }

  #connect(token) {
    this.#token = token;
    try {
      const { WebSocket } = this.options;
      if (!WebSocket) throw new Error("There is no WebSocket: give a class.");
      this.#socket = new WebSocket(this.#url, ["chat.v1"]);
    } catch (error) {
      this.#forget();
      this.#end({ code: LOST, reason: error.message, by: "client" });
      return;
    }
    const socket = this.#socket;
    let failure = "";
    socket.onopen = this.#unlessOver(() => this.#begin());
    socket.onmessage = this.#unlessOver(({ data }) => this.#receive(data));
    socket.onclose = this.#unlessOver(({ code, reason }) => this.#closed(code, reason || failure));
    // Also later: `ws` throws an error for which there is no handler.
    socket.onerror = this.#unlessOver(({ message }) => {
      failure = message || "The connection failed.";
      this.#after("failed", CLOSE_AFTER_ERROR_MS, () => this.#lose(failure));
    });
    this.#after("welcome", this.options.connectTimeoutMs, () => this.#lose("no welcome in time"), setDeadline);
  }

  #begin() {
    const { name, resume } = this.options;
    this.#hello({ name, resume, token: this.#token }, (error) => {
      if (error.code === "unauthorized" && resume) {
        // The secret of the servers has changed: connect as a new user.
        this.options.resume = undefined;
        this.#begin();
      } else if (isPassing(error)) {
        this.#lose(error.message);
      } else {
        this.#giveUp(error);
      }
    });
  }

  #hello(fields, onRefused) {
    const resolve = (welcome, bytes) => this.#onWelcome(welcome, bytes);
    const reject = this.#unlessOver(onRefused);
    this.requests.request({ type: "hello", ...fields }, { resolve, reject }, true);
  }

  /** If there is no new token in time, the server ends the connection. */
  #renewIn(ms) {
    const onError = () => this.#renewIn(pauseAfter({ retryAfterMs: RENEW_AGAIN_MS }));
    const renew = () => this.#askToken((token) => this.#hello({ token }, onError), onError);
    unref(this.#after("renew", ms, renew));
  }

  /** Closes the client if another attempt would fail in the same way. */
  #giveUp(error) {
    this.#hangUp(1000);
    const isMissing = error instanceof Unauthorized || !this.#token;
    const refusedBy = isMissing ? "no_token" : "token_refused";
    const by = error.code === "unauthorized" ? refusedBy : "server";
    this.#end({ code: LOST, by }, error);
  }

  #receive(data) {
    this.#receivedAt = now();
    this.#isChecking = false;
    if (this.#answerDueAt < Infinity) {
      this.#answerDueAt = Infinity;
      this.watch();
    }
    const frame = readFrame(data);
    if (!frame) return;
    const { type, id, session } = frame;
    if (type === "goodbye") this.#goodbye = frame;
    if (type === "undelivered") {
      // Its id is that of a request that may still be answered, perhaps of another connection.
      if (session === this.welcome?.session) this.#onFrame(frame);
    } else if (!this.requests.answer(frame) && id === undefined) {
      this.#onFrame(frame);
    }
  }

  #onWelcome(frame, bytes) {
    clearDeadline(this.#timers.welcome);
    const { user } = this.welcome ?? frame;
    this.welcome = frame;
    this.options.resume = frame.resume ?? this.options.resume;
    if (this.#tokens && this.#isOutdated) {
      this.#renewIn(0);
    } else if (this.#tokens && frame.expires_in_ms !== undefined) {
      // Between eight and nine tenths of the time, so that clients which connected together do not ask
      // together.
      this.#renewIn(Math.max(SHORTEST_MS, frame.expires_in_ms * (0.8 + 0.1 * Math.random())));
    }
    if (this.isOnline) return;
    this.isOtherUser = user.id !== frame.user.id;
    this.isOtherPerson = this.isOtherUser && Boolean(this.#token);
    this.requests.limit(frame.limits, bytes);
    this.#onlineSince = now();
    this.#settle?.();
    // Last, since a handler may end this connection, or begin another one.
    this.#change({ state: "online" });
    this.watch();
  }

  /** A page cannot see the server's pings, so it asks when nothing was received for a while, and
   *  sooner while a request is unanswered. */
  watch() {
    const { unansweredSince } = this.requests;
    if (unansweredSince === Infinity) this.#timeoutFactor = 1;
    if (!this.isOnline || this.#answerDueAt < Infinity) return;
    const { pingAfterMs, pongTimeoutMs, checkTimeoutMs } = this.options;
    const silentAt = this.#receivedAt + pingAfterMs;
    const unansweredAt = Math.max(this.#receivedAt, unansweredSince) + checkTimeoutMs;
    const ms = Math.ceil(Math.min(silentAt, unansweredAt) - now());
    if (ms > 0) unref(this.#after("watch", ms, () => this.watch()));
    else this.#ask(unansweredAt < silentAt ? checkTimeoutMs : pongTimeoutMs);
  }

  /** Asks the server whether it is there. Whatever it sends within this time is an answer: it may
   *  read a ping late, behind what it reads at its own rate. A frame that was under way before the
   *  line died counts, too; then the ping is unanswered, and it is asked again. */
  #ask(ms) {
    const timeoutMs = ms * this.#timeoutFactor;
    const dueAt = now() + timeoutMs;
    if (this.#answerDueAt <= dueAt) return;
    this.#answerDueAt = dueAt;
    const late = () => {
      this.#timeoutFactor = Math.min(2 * this.#timeoutFactor, MAX_TIMEOUT_FACTOR);
      this.#lose("no answer");
    };
    unref(this.#after("watch", timeoutMs, late, setDeadline));
    this.requests.request({ type: "ping" }, {}, true);
  }

  /** Abandons a connection that does not answer: its `close` event may take minutes. */
  #lose(reason) {
    const socket = this.#socket;
    this.#closed(LOST, reason);
    end(socket);
  }

  /** The connection has ended. */
  #closed(code, reason) {
    const isTooBig = code === TOO_BIG;
    // A `hello` would be too large again.
    const isHello = isTooBig && !this.isOnline;
    if (isTooBig) this.requests.failLargest();
    // A page that returns from the cache of the browser gets `pageshow` before the end of its
    // connection. Whichever is first, the sign ends the pause.
    const isDue = this.#isChecking && code === LOST && !this.#goodbye;
    this.#forget();
    const goodbye = this.#goodbye ?? { reconnect: !FINAL_CODES.includes(code), reason };
    const mayRenew = code === TOKEN_EXPIRED && this.#tokens;
    if (isHello || !(goodbye.reconnect || mayRenew)) {
      const [by, why] = ENDED_BY[code] ?? ["server"];
      const { reason, message, until } = goodbye;
      const error = why && new ChatError(why, message, { until, reason: message });
      this.#end({ code, reason, by, message, until }, error);
      return;
    }
    // With jitter also after the time that the server gives: it may be the same for many.
    const pauseMs = (goodbye.after_ms ?? 0) + this.#backoff(code);
    const retryInMs = isDue ? 0 : pauseMs;
    this.#after("retry", retryInMs, () => this.#open());
    this.#change({ state: "waiting", retryInMs, code, reason });
  }

  /** Exponential, with full jitter: clients that lost a server together do not reconnect together. */
  #backoff(code) {
    const { backoffBaseMs, backoffCapMs } = this.options;
    const isViolation = code === POLICY_VIOLATION || code === TOO_BIG;
    const stableMs = isViolation ? STABLE_AFTER_VIOLATION_MS : STABLE_MS;
    if (now() - this.#onlineSince >= stableMs) this.#attempt = 0;
    this.#onlineSince = Infinity;
    const most = Math.min(backoffCapMs, backoffBaseMs * 2 ** this.#attempt);
    this.#attempt += 1;
    return Math.random() * most;
  }

  /** Sets a timer in place of the earlier one with this name. Those of a connection that is only
   *  watched do not keep a process alive: the connection does. */
  #after(name, ms, run, set = setTimeout) {
    clearDeadline(this.#timers[name]);
    return (this.#timers[name] = set(run, Math.min(ms, LONGEST_MS)));
  }

  /** The connection is over. Returns its socket. */
  #forget() {
    Object.values(this.#timers).forEach(clearDeadline);
    this.#answerDueAt = Infinity;
    this.#isChecking = false;
    const socket = this.#socket;
    this.#socket = null;
    this.#line = null;
    this.requests.disconnect();
    return socket;
  }

  /** The browser keeps the page in its back/forward cache, where nothing runs. Its user is away, so
   *  the connection ends as that of a page that was closed. The next sign opens another one. */
  #suspend() {
    this.#hangUp();
    this.#change({ state: "waiting", retryInMs: 0, code: LOST, reason: "pagehide" });
  }

  /** Ends the connection, for good with the code 1000. */
  #hangUp(code) {
    end(this.#forget(), code);
  }

  /** The end of the client. `by` says who ended it. */
  #end({ code, reason, ...detail }, error = new ChatError("closed", reason || undefined)) {
    this.#watchSigns("removeEventListener");
    this.#settle?.(error);
    this.#change({ state: "closed", code, reason: reason || error.message, ...detail, error });
  }

  #change(detail) {
    this.status = detail;
    this.#onStatus(detail);
  }
}

/** Closes a WebSocket, if there is one. One of `ws` would wait for the answer of a dead line for half a minute, and
 *  the process with it. */
function end(socket, code) {
  socket?.close(code);
  unref(setTimeout(() => socket?.terminate?.(), CLOSING_MS));
}
