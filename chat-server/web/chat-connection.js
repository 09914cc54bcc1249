// One connection after another to a chat server: welcome, requests and their answers,
// loss and return. Rooms and messages are the business of chat-client.js.

import { ChatError, deferred, pauseAfter } from "./chat-answer.js";

/** Close codes after which the server does not want this client back by itself. */
const FINAL_CODES = new Set([1000, 1002, 1003, 1007, 1008, 1009, 4002, 4003, 4004]);
const TOKEN_EXPIRED = 4004;

/** How long after a token could not be renewed that is tried again, at least. */
const RENEW_AGAIN_MS = 5_000;

/** The shortest and the longest time to wait for: beyond it timers run at once. */
const [SHORTEST_MS, LONGEST_MS] = [1_000, 2 ** 31 - 1];

/** What a browser reports when a connection ended without a close frame. */
const LOST = 1006;

/** How long a connection must have lasted before the next loss counts as the first again. */
const STABLE_MS = 5_000;

const DEFAULTS = {
  requestTimeoutMs: 15_000,
  connectTimeoutMs: 10_000,
  backoffBaseMs: 500,
  backoffCapMs: 20_000,
  pingAfterMs: 25_000,
  pongTimeoutMs: 10_000,
};

export class Connection {
  state = "idle";
  /** The server's last `welcome`. */
  welcome = null;
  resume;
  name;
  #url;
  #options;
  #hooks;
  #socket = null;
  #connecting = null;
  /** Requests on the wire, by id. */
  #requests = new Map();
  #lastId = 0;
  #attempt = 0;
  #goodbye = null;
  #onlineSince = 0;
  #heard = 0;
  #timers = {};

  /**
   * `hooks`: `changed(detail)` at each change of state, `frame(frame, asked)` for each frame
   * before its request, which is `asked`, is answered, `welcomed()`, `lost()`, and
   * `ended(error)` when the connection will not come back by itself.
   */
  constructor(url, options, hooks) {
    this.#url = String(url);
    this.#options = { ...DEFAULTS, WebSocket: globalThis.WebSocket, ...options };
    this.#hooks = hooks;
    this.resume = options.resume;
    this.name = options.name;
  }

  get isOnline() {
    return this.state === "online";
  }

  /** Connects; does not wait any longer if an attempt is due later. */
  connect() {
    if (this.isOnline) return Promise.resolve(this.welcome);
    this.#connecting ??= deferred();
    const { promise } = this.#connecting;
    if (!this.#socket) this.#open();
    return promise;
  }

  /** Begins again with another connection. */
  reconnect() {
    this.#forget()?.close(1000);
    this.#suspend();
    this.state = "idle";
    return this.connect();
  }

  close() {
    this.#forget()?.close(1000);
    this.#end(1000, "The connection was closed.");
  }

  /** Sends a frame that is answered. Resolves to the answer. */
  request(frame, { timeoutMs = this.#options.requestTimeoutMs } = {}) {
    const answer = deferred();
    const id = (this.#lastId += 1);
    if (!this.post({ ...frame, id })) {
      answer.reject(new ChatError("offline", "There is no connection."));
      return answer.promise;
    }
    const timer = setTimeout(() => {
      this.#requests.delete(id);
      answer.reject(new ChatError("timeout", "The server did not answer in time."));
    }, timeoutMs);
    this.#requests.set(id, { asked: frame, answer, timer });
    return answer.promise;
  }

  /** Sends a frame that is not answered. Tells whether there was a connection. */
  post(frame) {
    if (this.#socket?.readyState !== 1) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  #open() {
    clearTimeout(this.#timers.retry);
    const { WebSocket, connectTimeoutMs } = this.#options;
    try {
      this.#socket = new WebSocket(this.#url, ["chat.v1"]);
    } catch (error) {
      this.#end(LOST, error.message);
      return;
    }
    const socket = this.#socket;
    this.#goodbye = null;
    socket.onopen = () => this.#hello(socket);
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code, reason }) => this.#closed(code, reason);
    this.#timers.connect = setTimeout(() => this.#lose("no welcome in time"), connectTimeoutMs);
    this.#change({ state: "connecting" });
  }

  async #hello(socket) {
    let token;
    try {
      token = await this.#token();
    } catch (error) {
      if (socket === this.#socket) this.#lose(`There is no token: ${error?.message ?? error}`);
      return;
    }
    if (socket !== this.#socket) return;
    try {
      const { name, resume } = this;
      await this.request({ type: "hello", name, resume, token });
    } catch (error) {
      if (socket === this.#socket) this.#unwelcome(error);
    }
  }

  async #token() {
    const { token } = this.#options;
    return typeof token === "function" ? token() : token;
  }

  get #canRenew() {
    return typeof this.#options.token === "function";
  }

  /** Between eight and nine tenths of the time that a token has left, so that those who came
   *  together do not ask together. */
  #renewBefore(expiresInMs) {
    if (this.#canRenew) this.#renewIn(Math.max(SHORTEST_MS, expiresInMs * (0.8 + 0.1 * Math.random())));
  }

  #renewIn(ms) {
    clearTimeout(this.#timers.renew);
    this.#timers.renew = setTimeout(() => this.#renew(this.#socket), Math.min(ms, LONGEST_MS));
  }

  /** If there is no new token in time, the server ends the connection. */
  async #renew(socket) {
    try {
      const token = await this.#token();
      if (socket === this.#socket) await this.request({ type: "hello", token });
    } catch {
      const pause = pauseAfter({ retryAfterMs: RENEW_AGAIN_MS });
      if (socket === this.#socket) this.#renewIn(pause);
    }
  }

  #unwelcome(error) {
    if (error.code === "unauthorized" && this.resume) {
      // The servers' secret is another one by now: be a new user.
      this.resume = undefined;
      this.#hello(this.#socket);
    } else if (error.code === "timeout" || error.retryAfterMs !== undefined) {
      this.#lose(error.message);
    } else {
      this.#forget()?.close(1000);
      this.#end(LOST, error.message, error.code);
    }
  }

  #receive(data) {
    this.#heard = Date.now();
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      return;
    }
    if (frame.type === "welcome") this.#onWelcome(frame);
    if (frame.type === "goodbye") this.#goodbye = frame;
    this.#hooks.frame(frame, this.#requests.get(frame.id)?.asked);
    this.#answer(frame);
  }

  #answer(frame) {
    const request = this.#requests.get(frame.id);
    if (!request) return;
    this.#requests.delete(frame.id);
    clearTimeout(request.timer);
    if (frame.type === "error") request.answer.reject(ChatError.fromFrame(frame));
    else request.answer.resolve(frame);
  }

  #onWelcome(frame) {
    clearTimeout(this.#timers.connect);
    this.welcome = frame;
    this.resume = frame.resume ?? this.resume;
    if (frame.expires_in_ms !== undefined) this.#renewBefore(frame.expires_in_ms);
    if (this.isOnline) return;
    this.#onlineSince = Date.now();
    this.#watch();
    this.#change({ state: "online" });
    this.#connecting?.resolve(frame);
    this.#connecting = null;
    this.#hooks.welcomed();
  }

  /** A page cannot see the server's pings, so it asks when nothing was heard for a while. */
  #watch() {
    const { pingAfterMs, pongTimeoutMs } = this.#options;
    const silent = Date.now() - this.#heard;
    if (silent < pingAfterMs) {
      this.#timers.watch = setTimeout(() => this.#watch(), pingAfterMs - silent);
      return;
    }
    const socket = this.#socket;
    this.request({ type: "ping" }, { timeoutMs: pongTimeoutMs }).then(
      () => socket === this.#socket && this.#watch(),
      () => socket === this.#socket && this.#lose("no answer to a ping"),
    );
  }

  /** Gives up a connection that does not answer; its own end may be long in coming. */
  #lose(reason) {
    const socket = this.#socket;
    this.#closed(LOST, reason);
    socket.close();
  }

  /** The connection has ended. */
  #closed(code, reason) {
    this.#forget();
    const goodbye = this.#goodbye;
    const mayRenew = code === TOKEN_EXPIRED && this.#canRenew;
    const comeBack = mayRenew || (goodbye ? goodbye.reconnect : !FINAL_CODES.has(code));
    if (!comeBack) {
      this.#end(code, goodbye?.reason ?? reason);
      return;
    }
    this.#suspend();
    const retryInMs = goodbye?.after_ms > 0 ? goodbye.after_ms : this.#backoff();
    this.#timers.retry = setTimeout(() => this.#open(), retryInMs);
    this.#change({ state: "waiting", retryInMs, code, reason });
  }

  /** Exponential, with full jitter: those who were lost together do not return together. */
  #backoff() {
    const { backoffBaseMs, backoffCapMs } = this.#options;
    if (this.#onlineSince && Date.now() - this.#onlineSince >= STABLE_MS) this.#attempt = 0;
    this.#onlineSince = 0;
    const most = Math.min(backoffCapMs, backoffBaseMs * 2 ** this.#attempt);
    this.#attempt += 1;
    return Math.random() * most;
  }

  /** Lets go of the socket, and returns it. */
  #forget() {
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    const socket = this.#socket;
    if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
    this.#socket = null;
    return socket;
  }

  #suspend() {
    this.#hooks.lost();
    const lost = new ChatError("disconnected", "The connection was lost before the answer.");
    for (const { answer, timer } of this.#requests.values()) {
      clearTimeout(timer);
      answer.reject(lost);
    }
    this.#requests.clear();
  }

  #end(code, reason, errorCode = "closed") {
    this.#suspend();
    const error = new ChatError(errorCode, reason || `The connection was closed (${code}).`);
    this.#connecting?.reject(error);
    this.#connecting = null;
    this.#hooks.ended(error);
    this.#change({ state: "closed", code, reason: error.message });
  }

  #change(detail) {
    this.state = detail.state;
    this.#hooks.changed(detail);
  }
}
