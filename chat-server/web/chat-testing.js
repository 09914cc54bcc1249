// A chat server in memory, for the tests of applications. It has no network and no timers: what it
// sends arrives when the promises of a test have settled, so that fake timers do not stop it.

import {
  CLOSE_REASONS,
  checkBan,
  checkCloseCode,
  checkErrorCode,
  checkFunction,
  checkGoodbye,
  checkKick,
  checkLifetime,
  checkOneOf,
  checkOptions,
  checkRequest,
  checkType,
} from "./chat-testing-checks.js";
import { readRequest, repairedName } from "./chat-testing-rules.js";
import { LOST, NORMAL, webSocketOf } from "./chat-testing-socket.js";

/** Close codes of a server that has removed the user, who is then in no room any more. */
const [KICKED, BANNED, TOKEN_EXPIRED] = [4002, 4003, 4004];
const REMOVED = new Set([KICKED, BANNED]);

/** Close codes after which a client is not to connect again. */
const FINAL = new Set([NORMAL, 1002, 1003, 1007, KICKED, BANNED, TOKEN_EXPIRED]);

/** For how many turns of the promises nothing may happen until all has settled: functions of the
 *  application take some between a frame that arrives and the one that they send. */
const QUIET_TURNS = 100;

/** Messages that a room keeps, and those of a page. */
const KEPT = 256;

/** A ban of as many seconds, ten years, or more has no end. */
const ENDLESS_SECONDS = 10 * 365 * 24 * 60 * 60;

/** For how long the key of a message is known. */
const KEY_MS = 5 * 60_000;

/** What users may do, unless a test says otherwise: as on a server without tokens, and by a token without `rooms`. */
const BY_DEFAULT = ["join", "send", "direct", "history", "presence"];

/** All capabilities, in the order of a real server. */
const EVERYTHING = [...BY_DEFAULT, "moderate"];

/** The capability that a request needs: in a room, or for a direct message with its recipient. */
const NEEDS = {
  join: "join",
  send: "send",
  direct: "direct",
  history: "history",
  members: "presence",
  typing: "send",
  kick: "moderate",
  ban: "moderate",
  unban: "moderate",
};

/** The members of `limits` in `welcome`. */
const LIMIT_NAMES = ["message_bytes", "frame_bytes", "rooms", "in_flight", "frames", "joins", "bytes", "answers", "kept"];

const LIMITS = { message_bytes: 32_768, frame_bytes: 233_472, rooms: 128, in_flight: 64 };

export class TestServer {
  /** Whether new connections are accepted; without it they fail. */
  isReachable = true;
  /** Whether what either side sends is lost, as on a line that has died unnoticed. */
  isSilent = false;
  /** The ids of users on whose lines all is lost. */
  silentUsers = new Set();
  /** All frames of all clients, in order. */
  received = [];
  /** The class that a client takes as the option `WebSocket`. */
  WebSocket;
  #limits;
  #expiresInMs;
  #userOf;
  #can;
  #keepsHistory;
  #connections = new Set();
  /** The ids of all users who have connected, or whom the test has named. */
  #users = new Set();
  #rooms = new Map();
  /** By room, or none for all rooms, and user: when the ban ends, `until`, undefined for one without an end; and
   *  its `reason`. */
  #bans = new Map();
  /** Tokens that have expired. */
  #expired = new Set();
  #faults = [];
  #lastId = 0;
  /** Frames and events that are on their way, and how many have arrived. */
  #underWay = 0;
  #arrived = 0;
  #isClosed = false;

  /**
   * `limits`: members of `limits` in `welcome`, beside the default ones. `expiresInMs`: the
   * lifetime of tokens. `userOf(token)`: the user of a token, or nothing if it is not valid; with it
   * each client needs a token. By default none does, and a token is the id and the name, but for what
   * follows a `#`: `ann#2` is another token of `ann`. `can(user, room)`: the capabilities of a user, by default
   * all but `moderate`, where `@bob` in place of a room is for direct messages to the user `bob`. `history`: whether rooms keep messages.
   */
  constructor(options = {}) {
    checkOptions("TestServer", options, ["limits", "expiresInMs", "userOf", "can", "history"]);
    checkLifetime(options.expiresInMs);
    checkFunction("userOf", options.userOf);
    checkFunction("can", options.can);
    const { limits, expiresInMs, userOf, can = () => BY_DEFAULT, history = true } = options;
    checkOptions("limits", limits ?? {}, LIMIT_NAMES);
    this.#limits = { ...LIMITS, ...limits };
    this.#expiresInMs = expiresInMs;
    this.#userOf = userOf;
    this.#can = can;
    this.#keepsHistory = history;
    this.WebSocket = webSocketOf({
      accepts: () => this.isReachable || this.#isClosed,
      passes: (socket) => this.#isClosed || !(this.isSilent || this.silentUsers.has(this.#of(socket)?.user?.id)),
      opened: (socket) => this.#onOpen(socket),
      receive: (socket, text) => this.#receive(socket, text),
      closed: (socket, isDeparture) => this.#disconnect(this.#of(socket), isDeparture),
      later: (run) => this.#later(run),
    });
  }

  /** How many clients are connected. */
  get connections() {
    return this.#connections.size;
  }

  /** The faults of `loseAnswer` and `refuse` for which no request has come. */
  get faults() {
    return this.#faults.map(({ type, user, room, error }) => ({ type, user, room, code: error?.code }));
  }

  /** The position after the latest message of a room; empty in a room without history. */
  position(room) {
    const { epoch, offset } = this.#room(room);
    return this.#keepsHistory ? { epoch, offset } : {};
  }

  /** The messages that a room keeps, oldest first. */
  messages(room) {
    return copied(this.#room(room).log);
  }

  /** The users who are in a room, also those who were lost a moment ago. */
  members(room) {
    return copied([...this.#room(room).members.values()]);
  }

  /** A message of a user, by name or as `{id, name, color}`, is sent to a room, as by the HTTP API: the user need not
   *  be there, and neither capabilities nor bans count. Throws a `TypeError` for a message that a real server
   *  refuses from everybody. */
  say(room, user, message, options = {}) {
    checkOptions("say", options, ["data", "key", "at"]);
    const { data, key, at } = options;
    checkRequest({ type: "send", room, message, data, key }, this.#limits);
    return this.#publish(room, { user: this.#person(user), message, data, key, at });
  }

  /** A user joins a room, or is renamed there. Throws a `TypeError` for one who is banned there. */
  join(room, user) {
    const { id } = this.#person(user);
    if (this.#banOf(room, id)) throw new TypeError(`${id} is banned from the room ${room}.`);
    this.#enter(room, user);
  }

  #enter(room, user) {
    const { members, lost } = this.#room(room);
    const member = person(user);
    const event = this.#change(room, member);
    if (event) this.#broadcast(room, presence(room, event, member));
    members.set(member.id, member);
    lost.delete(member.id);
  }

  /** What a room's members hear of a user who joins: `joined`, `renamed`, or nothing. */
  #change(room, { id, name }) {
    const before = this.#room(room).members.get(id);
    if (before?.name === name) return undefined;
    return before ? "renamed" : "joined";
  }

  /** Makes a user leave a room, as an application does by the API: its client is out of it. Throws a `TypeError`
   *  for one who is not there. */
  leave(room, user) {
    const { id } = person(user);
    this.#checkMember(room, id);
    this.#evict(room, id, {});
  }

  /** A user is no member any more. */
  #removeMember(room, id) {
    const { members, lost } = this.#room(room);
    const member = members.get(id);
    lost.delete(id);
    if (members.delete(id)) this.#broadcast(room, presence(room, "left", member));
  }

  /** The time is over in which the users whose connections were lost, or this one, could return:
   *  they leave the rooms in which they still were. Throws a `TypeError` for one who is lost in no room. */
  expireGrace(user) {
    const lost = [...this.#rooms.values()].flatMap(({ lost }) => [...lost]);
    if (user !== undefined) checkOneOf("a user who is lost in a room", user, lost);
    this.#expireGrace(user);
  }

  #expireGrace(user) {
    for (const [room, { lost }] of this.#rooms) {
      for (const id of [...lost]) {
        if (user === undefined || id === user) this.#removeMember(room, id);
      }
    }
  }

  typing(room, user, typing = true) {
    checkRequest({ type: "typing", room, typing }, this.#limits);
    this.#broadcast(room, { type: "typing", room, user: this.#person(user), typing });
  }

  /** A user sends a direct message to a connected user. */
  direct(to, user, message, options = {}) {
    checkOptions("direct", options, ["data"]);
    const { data } = options;
    checkRequest({ type: "direct", to, message, data }, this.#limits);
    const connections = this.#connectionsOf(to);
    for (const { socket } of connections) {
      socket.receive({ type: "direct", user: this.#person(user), message, data, at: Date.now() });
    }
    return connections.length;
  }

  /** Removes a user from a room. Throws a `TypeError` for one who is not there. */
  kick(room, id, message, reason = "kicked") {
    checkKick(message, reason);
    this.#checkMember(room, id);
    this.#evict(room, id, { reason, message });
  }

  #checkMember(room, id) {
    if (!this.#room(room).members.has(id)) throw new TypeError(`There is no user ${id} in the room ${room}.`);
  }

  #evict(room, id, why) {
    for (const { socket, rooms } of this.#connectionsOf(id)) {
      if (rooms.delete(room)) socket.receive({ type: "left", room, ...why });
    }
    this.#removeMember(room, id);
  }

  /** Removes a user from a room, who cannot join it for some seconds, or until `unban`. */
  ban(room, id, options = {}) {
    checkBan("ban", options);
    const { until, reason: message } = this.#addBan(room, id, options);
    this.#evict(room, id, { reason: "banned", message, until });
  }

  unban(room, id) {
    this.#bans.delete(banKey(room, id));
  }

  /** Ends the connections of a user, who cannot connect for some seconds, or until `unbanUser`. */
  banUser(id, options = {}) {
    checkBan("banUser", options);
    this.#addBan(undefined, id, options);
    for (const { socket } of this.#connectionsOf(id)) this.#refuseBanned(socket, id);
    this.#expireGrace(id);
  }

  unbanUser(id) {
    this.unban(undefined, id);
  }

  #addBan(room, id, { seconds = ENDLESS_SECONDS, message }) {
    const until = seconds >= ENDLESS_SECONDS ? undefined : Date.now() + seconds * 1000;
    const ban = { until, reason: message };
    this.#bans.set(banKey(room, id), ban);
    return ban;
  }

  /** The ban of a user that holds now. */
  #banOf(room, id) {
    const ban = this.#bans.get(banKey(room, id));
    return ban?.until <= Date.now() ? undefined : ban;
  }

  /** Ends a connection of a user who is banned from the server. */
  #refuseBanned(socket, id) {
    const { until, reason: message } = this.#banOf(undefined, id);
    sayGoodbye(socket, BANNED, { reason: "banned", message, until });
    socket.end(BANNED, { reason: CLOSE_REASONS[BANNED], isDeparture: true });
  }

  /** Ends the connections of all clients, or those of one user, with a close code. */
  drop(code = LOST, options = {}) {
    checkCloseCode(code);
    checkOptions("drop", options, ["user", "reason"]);
    const { user, reason = CLOSE_REASONS[code] } = options;
    this.#checkUser(user);
    for (const { socket } of this.#connectionsOf(user)) {
      socket.end(code, { reason, isDeparture: REMOVED.has(code) });
    }
  }

  /** Ends all connections for good, and each later one: its clients are `closed`. */
  close() {
    this.#isClosed = true;
    this.drop(NORMAL);
  }

  /** Resolves when all that is on its way has arrived, and what follows from it. */
  async settled() {
    for (let quiet = 0; quiet < QUIET_TURNS; quiet += 1) {
      const arrived = this.#arrived;
      await null;
      if (this.#underWay > 0 || this.#arrived > arrived) quiet = 0;
    }
  }

  /** Sends `goodbye` to all clients, or to one user, and ends their connections. */
  goodbye(code, goodbye, user) {
    checkGoodbye(code, goodbye);
    this.#checkUser(user);
    for (const { socket } of this.#connectionsOf(user)) sayGoodbye(socket, code, goodbye);
    this.drop(code, { user });
  }

  /** Sends a frame as it is: to the members of its `room`, if it has one, and to all connections of `user`, if
   *  given. */
  push(frame, options = {}) {
    checkOptions("push", options, ["user"]);
    const { user } = options;
    this.#checkUser(user);
    for (const { socket, rooms } of this.#connectionsOf(user)) {
      if (frame.room === undefined || rooms.has(frame.room)) socket.receive(frame);
    }
  }

  /** Carries out the next request of this type, of this user and in this room if given, and does not answer it. */
  loseAnswer(type = "send", options = {}) {
    checkType(type);
    checkOptions("loseAnswer", options, ["user", "room"]);
    const { user, room } = options;
    this.#faults.push({ type, user, room });
  }

  /** Refuses the next request of this type, of this user and in this room if given. */
  refuse(type, code, options = {}) {
    checkType(type);
    checkErrorCode(code);
    checkOptions("refuse", options, ["user", "room", "retryAfterMs", "message", "until", "reason"]);
    const { user, room, retryAfterMs, message = "The test refuses it.", until, reason } = options;
    this.#faults.push({ type, user, room, error: { code, message, retry_after_ms: retryAfterMs, until, reason } });
  }

  /** The tokens of all clients, or that of one user, have expired, and are refused from now on. */
  expireToken(user) {
    this.#checkUser(user);
    const connections = this.#connectionsOf(user).filter(({ token }) => token !== undefined);
    for (const { socket, token } of connections) {
      this.#expired.add(token);
      sayGoodbye(socket, TOKEN_EXPIRED, { reason: "token_expired" });
      socket.end(TOKEN_EXPIRED, { reason: CLOSE_REASONS[TOKEN_EXPIRED] });
    }
  }

  /** Refuses the next token. */
  refuseToken() {
    this.refuse("hello", "unauthorized", { message: "The token is not valid." });
  }

  /** Loses what a room keeps, as after a loss of data: clients receive a `gap`. */
  forget(room) {
    const lost = this.#room(room);
    Object.assign(lost, { epoch: this.#newId("epoch"), log: [], offset: 0 });
    this.#broadcast(room, { type: "gap", room, ...this.position(room) });
  }

  /** A user whom the test names. */
  #person(user) {
    const named = person(user);
    this.#users.add(named.id);
    return named;
  }

  /** The id, if given, is that of a user who was here: another one is a mistake of the test. */
  #checkUser(id) {
    if (id !== undefined) checkOneOf("a user", id, [...this.#users]);
  }

  /** The connections of a user, or all. */
  #connectionsOf(user) {
    return [...this.#connections].filter((connection) => user === undefined || connection.user?.id === user);
  }

  #of(socket) {
    return [...this.#connections].find((connection) => connection.socket === socket);
  }

  #room(name) {
    if (!this.#rooms.has(name)) {
      this.#rooms.set(name, { epoch: "", offset: 0, log: [], members: new Map(), lost: new Set(), keys: new Map() });
    }
    return this.#rooms.get(name);
  }

  #newId(kind) {
    return `${kind}-${(this.#lastId += 1)}`;
  }

  #later(run) {
    this.#underWay += 1;
    Promise.resolve().then(() => {
      this.#underWay -= 1;
      this.#arrived += 1;
      run();
    });
  }

  #onOpen(socket) {
    // `rooms`: what the user may do, by room, as the client was last told.
    this.#connections.add({ socket, user: null, token: undefined, rooms: new Map() });
    if (this.#isClosed) socket.end(NORMAL);
  }

  /** A connection has ended. Its user is still in the rooms, unless the user departs. */
  #disconnect(connection, isDeparture) {
    if (!this.#connections.delete(connection)) return;
    for (const room of connection.rooms.keys()) this.#depart(room, connection.user, isDeparture);
  }

  /** A user has left a room, or is lost there, unless another connection is in it. */
  #depart(room, user, isDeparture = true) {
    const isThere = ({ user: other, rooms }) => other?.id === user.id && rooms.has(room);
    if ([...this.#connections].some(isThere)) return;
    if (isDeparture) this.#removeMember(room, user.id);
    else this.#room(room).lost.add(user.id);
  }

  #broadcast(room, frame) {
    for (const { socket, rooms } of this.#connections) {
      const can = rooms.get(room);
      if (can && (frame.type !== "presence" || can.includes("presence"))) socket.receive(frame);
    }
  }

  /** What a user may do in a room, or with `@` and the id of a user, in the order of a real server. */
  #granted(user, place) {
    const can = this.#can(user, place);
    return EVERYTHING.filter((capability) => can.includes(capability));
  }

  #receive(socket, text) {
    const connection = this.#of(socket);
    if (!connection) return;
    const { frame, error } = readRequest(text, this.#limits);
    this.received.push(frame);
    const fault = this.#takeFault(connection, frame);
    const refused = fault?.error ? { type: "error", ...fault.error } : error && refusal(...error);
    const answer = refused ?? this.#carryOut(connection, frame);
    if (answer && (!fault || fault.error)) socket.receive({ ...answer, id: frame.id });
  }

  /** The first fault that is meant for a request. */
  #takeFault({ user }, frame) {
    const isMeant = (fault) =>
      fault.type === frame.type &&
      (fault.user === undefined || fault.user === user?.id) &&
      (fault.room === undefined || fault.room === frame.room);
    const index = this.#faults.findIndex(isMeant);
    return index < 0 ? undefined : this.#faults.splice(index, 1)[0];
  }

  /** Carries out a frame. Returns its answer. */
  #carryOut(connection, frame) {
    const { type, room } = frame;
    const { user, rooms } = connection;
    if (!user && !["hello", "ping"].includes(type)) {
      return refusal("unauthorized", "The first request is hello.");
    }
    const needed = NEEDS[type];
    const place = type === "direct" ? `@${frame.to}` : room;
    if (needed && !this.#granted(user, place).includes(needed)) {
      return refusal("forbidden", "You have no permission for this.");
    }
    const ban = (needed === "join" || needed === "send") && this.#banOf(room, user.id);
    if (ban) {
      return { ...refusal("banned", `You are banned from this room: ${ban.reason ?? "no reason was given"}`), ...ban };
    }
    const needsRoom = ["send", "members", "history", "typing", "leave"].includes(type);
    if (needsRoom && !rooms.has(room)) return refusal("not_in_room", "Join the room first.");
    return this.#requests[type](connection, frame);
  }

  #requests = {
    hello: (connection, frame) => this.#hello(connection, frame),
    join: (connection, frame) => this.#join(connection, frame),
    leave: (connection, { room }) => {
      connection.rooms.delete(room);
      this.#depart(room, connection.user);
      return { type: "left", room };
    },
    send: ({ user }, { room, message, data, key }) => {
      return { type: "ok", ...this.#publish(room, { user, message, data, key }) };
    },
    direct: ({ user }, { to, message, data }) => {
      return { type: "ok", delivered: Math.min(1, this.direct(to, user, message, { data })) };
    },
    typing: ({ user }, { room, typing }) => this.typing(room, user, typing),
    members: ({ user }, { room }) => ({ type: "members", room, ...this.#members(room, user) }),
    history: (_, frame) => this.#history(frame),
    ping: () => ({ type: "pong" }),
    kick: (_, { room, user, reason: message }) => {
      this.#evict(room, user, { reason: "kicked", message });
      return { type: "ok" };
    },
    ban: (_, { room, user, seconds, reason }) => {
      if (seconds === 0) return refusal("bad_field", "A ban lasts at least 1 second.");
      this.ban(room, user, { seconds, message: reason });
      return { type: "ok" };
    },
    unban: (_, { room, user }) => {
      this.unban(room, user);
      return { type: "ok" };
    },
  };

  #hello(connection, { name, resume, token = connection.token }) {
    const { user: known, rooms, socket } = connection;
    const user = token === undefined ? this.#anonymous(known, name, resume) : this.#named(token);
    if (!user) return refusal("unauthorized", token === undefined ? "Credentials are needed." : "The token is not valid.");
    this.#users.add(user.id);
    if (this.#banOf(undefined, user.id)) return this.#refuseBanned(socket, user.id);
    const isSame = known?.id === user.id && (token !== undefined || known.name === user.name);
    if (rooms.size > 0 && !isSame) {
      return refusal("forbidden", "The user cannot change while the client is in a room.");
    }
    Object.assign(connection, { user, token, session: connection.session ?? this.#newId("session") });
    this.#recheck(connection);
    return {
      type: "welcome",
      session: connection.session,
      resume: token === undefined ? `resume of ${user.id}` : undefined,
      user,
      node: "test",
      protocol: 1,
      expires_in_ms: token === undefined ? undefined : this.#expiresInMs,
      heartbeat_ms: 25_000,
      limits: this.#limits,
    };
  }

  /** The user of a client without a token; none on a server that wants one. */
  #anonymous(known, name, resume) {
    if (this.#userOf) return undefined;
    const id = /^resume of (.*)$/.exec(resume)?.[1] ?? known?.id ?? this.#newId("user");
    return person({ id, name: name === undefined ? (known?.name ?? id) : repairedName(name) });
  }

  /** The user whom a token names; none if it is not valid. */
  #named(token) {
    const user = this.#userOf ? this.#userOf(token) : token.split("#")[0];
    return user && !this.#expired.has(token) ? person(user) : undefined;
  }

  /** The rooms follow the name and the capabilities of the latest token. */
  #recheck({ user, rooms, socket }) {
    for (const room of [...rooms.keys()]) {
      const can = inRoom(this.#granted(user, room));
      const before = rooms.get(room);
      rooms.set(room, can);
      if (can.includes("join")) {
        if (String(can) !== String(before)) socket.receive({ type: "capabilities", room, can });
        this.#enter(room, user);
        continue;
      }
      rooms.delete(room);
      socket.receive({ type: "left", room, reason: "forbidden" });
      this.#depart(room, user);
    }
  }

  /** Where the room cannot continue at `since`, the answer has the latest messages: `history`, by default 50. */
  #join({ user, rooms, socket }, { room, since, history = since ? 50 : 0 }) {
    if (!rooms.has(room) && rooms.size >= this.#limits.rooms) {
      return refusal("too_many_rooms", `A connection is in at most ${this.#limits.rooms} rooms.`);
    }
    const can = inRoom(this.#granted(user, room));
    const seesPresence = can.includes("presence");
    // The client itself receives it after the answer.
    const event = this.#change(room, user);
    if (event && seesPresence && !rooms.has(room)) this.#later(() => socket.receive(presence(room, event, user)));
    this.#enter(room, user);
    rooms.set(room, can);
    const people = { ...this.#members(room, user, seesPresence), can };
    const answer = { type: "joined", room, ...this.position(room), ...people };
    if (!this.#keepsHistory) return { ...answer, recovered: false, messages: [] };
    if (!can.includes("history")) return { ...answer, recovered: false, messages: [], more: false };
    const { epoch, offset, log } = this.#room(room);
    const first = offset - log.length;
    // A room that was empty had no epoch yet.
    const isSame = since?.epoch === epoch || (since?.epoch === "" && since.offset === 0);
    const recovered = isSame && since.offset >= first && since.offset <= offset;
    const messages = recovered ? log.slice(since.offset - first) : log.slice(Math.max(0, log.length - history));
    return { ...answer, recovered, messages, more: log.length > messages.length };
  }

  /** The members of a room, the client's user first; no others if the client may not see them. */
  #members(room, { id }, seesPresence = true) {
    const all = [...this.#room(room).members.values()];
    const members = all.filter((member) => seesPresence || member.id === id);
    members.sort((a, b) => (b.id === id) - (a.id === id));
    return { members, count: members.length };
  }

  #history({ room, before = Infinity, after, limit = KEPT }) {
    if (!this.#keepsHistory) return refusal("history_disabled", "This room keeps no history.");
    const { epoch, offset, log } = this.#room(room);
    const all = log.filter((message) => message.offset < before && message.offset > (after ?? 0));
    const most = Math.max(1, limit);
    const messages = after === undefined ? all.slice(-most) : all.slice(0, most);
    return { type: "history", room, epoch, offset, messages, more: all.length > messages.length };
  }

  /** Sends a message to the members of a room, unless its key is known. */
  #publish(name, { user, message, data, key, at = Date.now() }) {
    const frame = { type: "message", room: name, user, message, data, at, key };
    if (!this.#keepsHistory) {
      this.#broadcast(name, frame);
      return {};
    }
    const room = this.#room(name);
    const known = key === undefined ? undefined : room.keys.get(keyOf(user, key));
    if (Date.now() - known?.since < KEY_MS) return known.position;
    if (room.epoch === "") room.epoch = this.#newId("epoch");
    room.offset += 1;
    const { epoch, offset } = room;
    const placed = { ...frame, offset, epoch: offset === 1 ? epoch : undefined };
    room.log = [...room.log, placed].slice(-KEPT);
    const position = { epoch, offset };
    if (key !== undefined) room.keys.set(keyOf(user, key), { position, since: Date.now() });
    this.#broadcast(name, placed);
    return position;
  }
}

/** A user by name, or as given. */
function person(user) {
  const { id, name = id, color = "#8A8D99" } = typeof user === "string" ? { id: user } : (user ?? {});
  if (typeof id !== "string") throw new TypeError("A user is a name, or { id, name, color }.");
  return { id, name, color };
}

/** As a client would receive it. (Jest with jsdom has no `structuredClone`.) */
function copied(value) {
  return JSON.parse(JSON.stringify(value));
}

/** The capabilities that `joined` lists: that for direct messages is of a user. */
function inRoom(can) {
  return can.filter((capability) => capability !== "direct");
}

/** What names a ban; without a room one from the server. */
function banKey(room, id) {
  return JSON.stringify([room, id]);
}

function keyOf({ id }, key) {
  return JSON.stringify([id, key]);
}

/** Says why a connection ends, and whether the client is to connect again. */
function sayGoodbye(socket, code, goodbye) {
  socket.receive({ type: "goodbye", reconnect: !FINAL.has(code), after_ms: 0, ...goodbye });
}

function presence(room, event, user) {
  return { type: "presence", room, event, user };
}

function refusal(code, message) {
  return { type: "error", code, message };
}
