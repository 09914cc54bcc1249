// One connection after another to a chat server: welcome, requests and their answers,
// loss and return. Rooms and messages are the business of chat-client.js.

import { ChatError, deferred, droppable, pauseAfter, rejected } from "./chat-answer.js";
import { ID_BYTES, bytesOf, refusalOf, tooLarge } from "./chat-limits.js";
import { Pace } from "./chat-pace.js";
import { watchSigns } from "./chat-signs.js";
import { clearDeadline, now, setDeadline } from "./chat-time.js";

/** Close codes after which the server does not want this client back by itself. */
const FINAL_CODES = new Set([1000, 1002, 1003, 1007, 4002, 4003, 4004]);
const [POLICY_VIOLATION, TOO_BIG, TOKEN_EXPIRED] = [1008, 1009, 4004];

/** Requests of the application that may wait for their turns, or for their answers. */
const MOST_REQUESTS = 1_000;

/** Requests that may be unanswered: a server that shares a rate among the connections of a user
 *  reads each of them more slowly than it said, and none is to time out for it. */
const MOST_UNANSWERED = 128;

/** What the server has to publish. */
const MESSAGES = new Set(["send", "direct"]);

/** What a healthy server answers soon. Each other request may take its whole time: the server may
 *  ask its application, and reads no `ping` until it has answered; and the answer may be one large
 *  frame, of which a page sees nothing before it is whole. */
const PROMPT = new Set([...MESSAGES, "ping"]);

/** How long the application has for a token before it is asked again. */
const TOKEN_MS = 120_000;

/** How long after a token could not be renewed that is tried again, at least. */
const RENEW_AGAIN_MS = 5_000;

/** The shortest and the longest time to wait for: beyond it timers run at once. */
const [SHORTEST_MS, LONGEST_MS] = [1_000, 2 ** 31 - 1];

/** What a browser reports when a connection ended without a close frame. */
const LOST = 1006;

/** How long after an `error` the `close` may take that should follow. Chromium fires none where a
 *  policy of the page forbids the address, and Node 20 none where a connection is refused. */
const CLOSE_AFTER_ERROR_MS = 100;

/** How long a connection must have lasted before the next loss counts as the first again; and
 *  one that the server ended for what was sent, which may well happen again. */
const [STABLE_MS, STABLE_AFTER_VIOLATION_MS] = [5_000, 60_000];

const DEFAULTS = {
  requestTimeoutMs: 15_000,
  connectTimeoutMs: 10_000,
  backoffBaseMs: 500,
  backoffCapMs: 20_000,
  pingAfterMs: 25_000,
  pongTimeoutMs: 10_000,
  checkTimeoutMs: 5_000,
};

/** The application has no token for this user any more. */
class AccessEnded extends ChatError {
  constructor(message) {
    super("unauthorized", message || "There is no token.");
  }
}

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
  /** The attempt that waits for a token before it connects. */
  #asking = null;
  /** The pending call for a token: a late token is used by the next attempt. */
  #nextToken = null;
  /** Of the present connection. */
  #token;
  #pace = new Pace();
  /** Requests that wait for their turns, in order. */
  #outbox = [];
  /** Requests on the wire, by id. */
  #requests = new Map();
  #lastId = 0;
  #attempt = 0;
  #goodbye = null;
  /** When the present connection was welcome; null without one. */
  #onlineSince = null;
  /** When the last frame was received. */
  #receivedAt = 0;
  /** By when a frame must be received, after the server was asked whether it is there. */
  #answerDueAt = Infinity;
  #timers = {};
  #deadlines = {};
  /** Ends the watch for signs that the connection may have died. */
  #unwatchSigns = null;

  /**
   * `hooks`: `changed(detail)` at each change of state, `frame(frame, asked)` for each frame
   * before its request, which is `asked`, is answered, `welcomed()`, `lost()`, and
   * `ended(error)` when the connection will not come back by itself.
   */
  constructor(url, options, hooks) {
    this.#url = String(url);
    // An option that is undefined is one that is not given.
    const given = Object.entries(options).filter(([, value]) => value !== undefined);
    this.#options = { ...DEFAULTS, WebSocket: globalThis.WebSocket, ...Object.fromEntries(given) };
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
    if (!this.#socket && !this.#asking) this.#open();
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
    if (this.state === "closed") return;
    this.#forget()?.close(1000);
    this.#end(1000, "The connection was closed.");
  }

  /** Asks at once whether the server is there; between two attempts, connects. */
  check() {
    if (this.state === "waiting") this.connect();
    else if (this.isOnline) this.#ask(this.#options.checkTimeoutMs);
  }

  /** Why nothing can be sent now, or nothing. */
  get refusal() {
    if (this.state === "closed") return new ChatError("closed", "The connection was closed.");
    return this.isOnline ? undefined : offline();
  }

  /** As `request`, for the application, of whose requests not too many may wait. */
  ask(frame) {
    if (this.#outbox.length + this.#requests.size >= MOST_REQUESTS) {
      return rejected(new ChatError("queue_full", "Too many requests wait."));
    }
    return this.request(frame);
  }

  /** Sends a frame that is answered, when it is its turn. Resolves to the answer. `onSent` is
   *  called when it leaves; it does not if it is not `isWanted` any more. */
  request(frame, { isWanted = () => true, onSent = () => {} } = {}) {
    const refusal = this.refusal ?? refusalOf(frame, this.welcome.limits);
    if (refusal) return rejected(refusal);
    const answer = deferred();
    const text = JSON.stringify(frame);
    this.#outbox.push({ frame, text, bytes: bytesOf(text) + ID_BYTES, answer, isWanted, onSent });
    this.#flush();
    return answer.promise;
  }

  /** Sends a frame that is not answered, if it need not wait. Returns whether it was sent. */
  post(frame) {
    const text = JSON.stringify(frame);
    const isTurn = this.isOnline && this.#outbox.length === 0 && this.#pace.wait(bytesOf(text)) === 0;
    return isTurn && this.#write(text);
  }

  /** Sends what may leave now. Joins that their own rate holds back are passed over, and so are
   *  messages while too many are unanswered; all others wait for the first, however large. */
  #flush() {
    clearTimeout(this.#timers.flush);
    let wait = Infinity;
    for (let index = 0; index < this.#outbox.length && this.#requests.size < MOST_UNANSWERED; ) {
      const { frame, bytes, answer, isWanted } = this.#outbox[index];
      const isJoin = frame.type === "join";
      if (!isWanted()) {
        this.#outbox.splice(index, 1);
        answer.reject(offline());
      } else if (isJoin && this.#pace.joinWait > 0) {
        wait = Math.min(wait, this.#pace.joinWait);
        index += 1;
      } else if (MESSAGES.has(frame.type) && !this.#pace.fits(bytes)) {
        index += 1;
      } else if (this.#pace.wait(bytes) > 0) {
        wait = Math.min(wait, this.#pace.wait(bytes));
        break;
      } else {
        this.#send(this.#outbox.splice(index, 1)[0]);
      }
    }
    if (wait < Infinity) this.#timers.flush = setTimeout(() => this.#flush(), Math.ceil(wait));
  }

  /** Puts a request on the wire. It has its time from now on. */
  #send({ frame, text = JSON.stringify(frame), answer, onSent }) {
    const id = (this.#lastId += 1);
    const whole = `{"id":${id},${text.slice(1)}`;
    if (!this.#write(whole, frame.type === "join")) {
      answer.reject(offline());
      return;
    }
    if (MESSAGES.has(frame.type)) this.#pace.sent(id, bytesOf(whole));
    const deadline = setDeadline(this.#options.requestTimeoutMs, () => {
      this.#take(id);
      answer.reject(new ChatError("timeout", "The server did not answer in time."));
      this.#flush();
    });
    this.#requests.set(id, { asked: frame, answer, deadline, sentAt: now() });
    onSent?.();
    this.#watch();
  }

  /** Sends a request that does not wait for its turn. */
  #sendAtOnce(frame) {
    const answer = deferred();
    this.#send({ frame, answer });
    return answer.promise;
  }

  #write(text, isJoin) {
    if (this.#socket?.readyState !== 1) return false;
    this.#pace.spend(bytesOf(text), isJoin);
    this.#socket.send(text);
    return true;
  }

  /** The request that this id answers. */
  #take(id) {
    const request = this.#requests.get(id);
    this.#requests.delete(id);
    this.#pace.answered(id);
    clearDeadline(request?.deadline);
    return request;
  }

  #open() {
    clearTimeout(this.#timers.retry);
    this.#goodbye = null;
    this.#unwatchSigns ??= watchSigns((type) => this.#onSign(type));
    if (!this.#canRenew) {
      this.#connect(this.#options.token);
      return;
    }
    // Before there is a connection: the server does not wait long for a token.
    const attempt = (this.#asking = {});
    this.#change({ state: "connecting" });
    // A handler of that may have ended it.
    if (attempt !== this.#asking) return;
    this.#askToken().then(
      (token) => {
        if (attempt === this.#asking) this.#connect(token);
      },
      (error) => {
        if (attempt !== this.#asking) return;
        if (error instanceof AccessEnded) this.#giveUp(error);
        else this.#closed(LOST, `There is no token: ${error?.message ?? error}`);
      },
    );
  }

  #connect(token) {
    this.#asking = null;
    this.#token = token;
    const { WebSocket, connectTimeoutMs } = this.#options;
    try {
      if (!WebSocket) throw new Error("This runtime has no WebSocket: give a class as an option.");
      this.#socket = new WebSocket(this.#url, ["chat.v1"]);
    } catch (error) {
      this.#end(LOST, error.message);
      return;
    }
    const socket = this.#socket;
    let failure = "";
    socket.onopen = () => this.#hello(socket);
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code, reason }) => this.#closed(code, reason || failure);
    socket.onerror = ({ message }) => {
      failure = message || "The connection failed.";
      clearTimeout(this.#timers.failed);
      this.#timers.failed = setTimeout(() => this.#lose(failure), CLOSE_AFTER_ERROR_MS);
    };
    this.#deadlines.welcome = setDeadline(connectTimeoutMs, () => this.#lose("no welcome in time"));
    if (this.state !== "connecting") this.#change({ state: "connecting" });
  }

  async #hello(socket) {
    const { name, resume } = this;
    const hello = { type: "hello", name, resume, token: this.#token };
    const refusal = refusalOf(hello, this.welcome?.limits);
    if (refusal) {
      this.#unwelcome(refusal);
      return;
    }
    // Without limits, until the server gives them.
    this.#pace = new Pace();
    try {
      await this.#sendAtOnce(hello);
    } catch (error) {
      if (socket === this.#socket) this.#unwelcome(error);
    }
  }

  /** A new token, of the one call that is made at a time. */
  #askToken() {
    const { token } = this.#options;
    this.#nextToken ??= droppable(
      within(TOKEN_MS, () => tokenFrom(token)).finally(() => (this.#nextToken = null)),
    );
    return this.#nextToken;
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
      const hello = { type: "hello", token: await this.#askToken() };
      if (socket !== this.#socket) return;
      const refusal = refusalOf(hello, this.welcome.limits);
      if (refusal) throw refusal;
      await this.#sendAtOnce(hello);
    } catch (error) {
      if (socket !== this.#socket) return;
      if (error instanceof AccessEnded) this.#giveUp(error);
      else this.#renewIn(pauseAfter({ retryAfterMs: RENEW_AGAIN_MS }));
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
      this.#giveUp(error);
    }
  }

  /** Ends it where another attempt would end in the same way. */
  #giveUp({ code, message }) {
    this.#forget()?.close(1000);
    this.#end(LOST, message, code);
  }

  #receive(data) {
    this.#received();
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      return;
    }
    if (typeof frame !== "object" || frame === null) return;
    // Its id is that of a request that may still be answered, perhaps of another connection.
    if (frame.type === "undelivered") {
      if (frame.session === this.welcome?.session) this.#hooks.frame(frame);
      return;
    }
    if (frame.type === "welcome") this.#onWelcome(frame);
    if (frame.type === "goodbye") this.#goodbye = frame;
    this.#hooks.frame(frame, this.#requests.get(frame.id)?.asked);
    this.#answer(frame);
    this.#flush();
  }

  #answer(frame) {
    const request = this.#take(frame.id);
    if (!request) return;
    if (frame.type === "error") request.answer.reject(ChatError.fromFrame(frame));
    else request.answer.resolve(frame);
    // The others may have waited for a slow one.
    this.#watch();
  }

  #onWelcome(frame) {
    clearDeadline(this.#deadlines.welcome);
    this.welcome = frame;
    this.resume = frame.resume ?? this.resume;
    if (frame.expires_in_ms !== undefined) this.#renewBefore(frame.expires_in_ms);
    if (this.isOnline) return;
    this.#beginPace(frame);
    this.#onlineSince = now();
    this.state = "online";
    this.#watch();
    this.#connecting?.resolve(frame);
    this.#connecting = null;
    this.#hooks.welcomed();
    // Last, since a handler may end this connection, or begin another one.
    this.#change({ state: "online" });
  }

  /** A connection begins, with all that its rates allow but for the `hello`. */
  #beginPace({ id, limits }) {
    const hello = this.#requests.get(id)?.asked;
    this.#pace = new Pace(limits);
    this.#pace.spend(bytesOf(JSON.stringify(hello)));
  }

  /** A page cannot see the server's pings, so it asks when nothing was received for a while, and
   *  sooner while nothing is unanswered but what a healthy server answers soon. */
  #watch() {
    clearTimeout(this.#timers.watch);
    if (!this.isOnline || this.#answerDueAt < Infinity) return;
    const { pingAfterMs, pongTimeoutMs, checkTimeoutMs } = this.#options;
    const [oldest] = this.#requests.values();
    const isPrompt = oldest && this.#slowRequests.length === 0;
    const silentAt = this.#receivedAt + pingAfterMs;
    const unansweredAt = isPrompt ? Math.max(this.#receivedAt, oldest.sentAt) + checkTimeoutMs : Infinity;
    const ms = Math.ceil(Math.min(silentAt, unansweredAt) - now());
    if (ms > 0) this.#timers.watch = setTimeout(() => this.#watch(), ms);
    else this.#ask(unansweredAt < silentAt ? checkTimeoutMs : pongTimeoutMs);
  }

  /** The unanswered requests that may keep a healthy server silent. */
  get #slowRequests() {
    return [...this.#requests.values()].filter(({ asked }) => !PROMPT.has(asked.type));
  }

  /** Asks the server whether it is there. Whatever it sends within this time is an answer: it may
   *  read a ping late, behind what it reads at its own rate. A frame that was under way before the
   *  line died counts, too; then the ping is unanswered, and it is asked again. The connection is
   *  not given up before the time of a slow request is over: the next one would end there again. */
  #ask(shortestMs) {
    const times = this.#slowRequests.map(({ sentAt }) => sentAt + this.#options.requestTimeoutMs - now());
    const timeoutMs = Math.max(shortestMs, ...times);
    const dueAt = now() + timeoutMs;
    if (this.#answerDueAt <= dueAt) return;
    this.#answerDueAt = dueAt;
    clearDeadline(this.#deadlines.answer);
    this.#deadlines.answer = setDeadline(timeoutMs, () => this.#lose("no answer to a ping"));
    this.#sendAtOnce({ type: "ping" });
  }

  #received() {
    this.#receivedAt = now();
    if (this.#answerDueAt === Infinity) return;
    clearDeadline(this.#deadlines.answer);
    this.#answerDueAt = Infinity;
    this.#watch();
  }

  /** The connection may have died, or the network may be back. */
  #onSign(type) {
    if (this.isOnline || type !== "offline") this.check();
  }

  /** Gives up a connection that does not answer; its own end may be long in coming. */
  #lose(reason) {
    const socket = this.#socket;
    this.#closed(LOST, reason);
    socket.close();
  }

  /** The connection has ended. */
  #closed(code, reason) {
    if (code === TOO_BIG && !this.isOnline) {
      // It was the `hello`, and would be again.
      this.#forget();
      this.#end(code, tooLarge().message, "too_large");
      return;
    }
    if (code === TOO_BIG) this.#failLargest();
    this.#forget();
    const goodbye = this.#goodbye;
    const mayRenew = code === TOKEN_EXPIRED && this.#canRenew;
    const comeBack = mayRenew || (goodbye ? goodbye.reconnect : !FINAL_CODES.has(code));
    if (!comeBack) {
      this.#end(code, goodbye?.reason ?? reason);
      return;
    }
    this.#suspend();
    const retryInMs = goodbye?.after_ms > 0 ? goodbye.after_ms : this.#backoff(code);
    this.#timers.retry = setTimeout(() => this.#open(), retryInMs);
    this.#change({ state: "waiting", retryInMs, code, reason });
  }

  /** 1009 does not name the frame that was too large. Only the largest message fails; the other
   *  sends go out again under their keys. */
  #failLargest() {
    this.#take(this.#pace.largest)?.answer.reject(tooLarge());
  }

  /** Exponential, with full jitter: those who were lost together do not return together. */
  #backoff(code) {
    const { backoffBaseMs, backoffCapMs } = this.#options;
    const isViolation = code === POLICY_VIOLATION || code === TOO_BIG;
    const stableMs = isViolation ? STABLE_AFTER_VIOLATION_MS : STABLE_MS;
    if (this.#onlineSince !== null && now() - this.#onlineSince >= stableMs) this.#attempt = 0;
    this.#onlineSince = null;
    const most = Math.min(backoffCapMs, backoffBaseMs * 2 ** this.#attempt);
    this.#attempt += 1;
    return Math.random() * most;
  }

  /** Lets go of the socket, and returns it. */
  #forget() {
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    for (const deadline of Object.values(this.#deadlines)) clearDeadline(deadline);
    this.#answerDueAt = Infinity;
    const socket = this.#socket;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      // `ws` has an error when a connection is closed before it is open, and throws it where
      // there is no handler.
      socket.onerror = () => {};
    }
    this.#socket = null;
    this.#asking = null;
    return socket;
  }

  #suspend() {
    this.#hooks.lost();
    const lost = new ChatError("disconnected", "The connection was lost before the answer.");
    for (const id of [...this.#requests.keys()]) this.#take(id).answer.reject(lost);
    // They have not left, so nothing about them is unknown.
    for (const { answer } of this.#outbox.splice(0)) answer.reject(offline());
  }

  #end(code, reason, errorCode = "closed") {
    this.#suspend();
    this.#unwatchSigns?.();
    this.#unwatchSigns = null;
    const error = new ChatError(errorCode, reason || `The connection was closed (${code}).`);
    this.#connecting?.reject(error);
    this.#connecting = null;
    this.#hooks.ended(error);
    this.#change({ state: "closed", code, reason: error.message, error });
  }

  #change(detail) {
    this.state = detail.state;
    this.#hooks.changed(detail);
  }
}

function offline() {
  return new ChatError("offline", "There is no connection.");
}

/** What the application gives as a token. Nothing, or an error with the code `unauthorized`, is
 *  its word that there will be none. */
async function tokenFrom(give) {
  let token;
  try {
    token = await give();
  } catch (error) {
    throw error?.code === "unauthorized" ? new AccessEnded(error.message) : error;
  }
  if (token === undefined || token === null || token === "") throw new AccessEnded();
  return token;
}

/** What `ask` gives within some time, or an error. */
async function within(ms, ask) {
  let deadline;
  const late = new Promise((_, reject) => {
    deadline = setDeadline(ms, () => reject(new Error(`none within ${ms / 1000} s`)));
  });
  try {
    return await Promise.race([ask(), late]);
  } finally {
    clearDeadline(deadline);
  }
}
