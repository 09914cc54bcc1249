// A chat server in memory, for the tests of applications. It has no network and no timers: what it
// sends arrives when the promises of a test have settled, so that fake timers do not stop it.

import { TYPES, readRequest, repairedName } from "./chat-testing-rules.js";

const [CONNECTING, OPEN, CLOSED] = [0, 1, 3];

/** A normal end, one without a code, and what a client sees of a connection that was lost. */
const [NORMAL, NO_CODE, LOST] = [1000, 1005, 1006];

/** Close codes of a server that has removed the user, who is then in no room any more. */
const REMOVED = new Set([4002, 4003]);

/** For how many turns of the promises nothing may happen until all has settled: functions of the
 *  application take some between a frame that arrives and the one that they send. */
const QUIET_TURNS = 100;

/** Messages that a room keeps, and those of a page. */
const KEPT = 256;

/** What users may do, unless a test says otherwise. */
const EVERYTHING = ["join", "send", "history", "presence", "moderate"];

/** The capability that a request in a room needs. */
const NEEDS = {
  join: "join",
  send: "send",
  history: "history",
  members: "presence",
  typing: "send",
  kick: "moderate",
  ban: "moderate",
  unban: "moderate",
};

const LIMITS = { message_bytes: 32_768, frame_bytes: 233_472, rooms: 128, in_flight: 64 };

export class TestServer {
  /** Whether new connections are accepted; without it they fail. */
  isReachable = true;
  /** Whether what either side sends is lost, as on a line that has died unnoticed. */
  isSilent = false;
  /** All frames of all clients, in order. */
  received = [];
  /** The class that a client takes as the option `WebSocket`. */
  WebSocket;
  #limits;
  #expiresInMs;
  #userOf;
  #can;
  #connections = new Set();
  #rooms = new Map();
  /** By room and user: when the ban ends, `until`, undefined for one without an end; and its `reason`. */
  #bans = new Map();
  #faults = [];
  #lastId = 0;
  /** Frames and events that are on their way, and how many have arrived. */
  #underWay = 0;
  #arrived = 0;
  #isClosed = false;

  /**
   * `limits`: members of `limits` in `welcome`, beside the default ones. `expiresInMs`: the
   * lifetime of tokens. `userOf(token)`: the user of a token, or nothing if it is not valid; by
   * default the token is the id and the name. `can(user, room)`: the capabilities of a user.
   */
  constructor({ limits, expiresInMs, userOf = (token) => person(token), can = () => EVERYTHING } = {}) {
    this.#limits = { ...LIMITS, ...limits };
    this.#expiresInMs = expiresInMs;
    this.#userOf = userOf;
    this.#can = can;
    this.WebSocket = webSocketOf({
      accepts: () => this.isReachable || this.#isClosed,
      passes: () => !this.isSilent || this.#isClosed,
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

  /** The position after the latest message of a room. */
  position(room) {
    const { epoch, offset } = this.#room(room);
    return { epoch, offset };
  }

  /** A user, by name or as `{id, name, color}`, sends a message to a room. */
  say(room, user, message, { data, key } = {}) {
    return this.#publish(room, { user: person(user), message, data, key });
  }

  /** A user joins a room, or is renamed there. */
  join(room, user) {
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

  leave(room, user) {
    const { members, lost } = this.#room(room);
    const { id } = person(user);
    const member = members.get(id);
    lost.delete(id);
    if (members.delete(id)) this.#broadcast(room, presence(room, "left", member));
  }

  /** The time is over in which the users whose connections were lost, or this one, could return:
   *  they leave the rooms in which they still were. */
  expireGrace(user) {
    for (const [room, { lost }] of this.#rooms) {
      for (const id of [...lost]) {
        if (user === undefined || id === user) this.leave(room, { id });
      }
    }
  }

  typing(room, user, typing = true) {
    this.#broadcast(room, { type: "typing", room, user: person(user), typing });
  }

  /** A user sends a direct message to a connected user. */
  direct(to, user, message, { data } = {}) {
    const connections = [...this.#connections].filter((connection) => connection.user?.id === to);
    for (const { socket } of connections) {
      socket.receive({ type: "direct", user: person(user), message, data, at: Date.now() });
    }
    return connections.length;
  }

  /** Removes a user from a room. */
  kick(room, id, message, reason = "kicked") {
    this.#evict(room, id, { reason, message });
  }

  #evict(room, id, why) {
    for (const connection of this.#connections) {
      if (connection.user?.id !== id || !connection.rooms.delete(room)) continue;
      connection.socket.receive({ type: "left", room, ...why });
    }
    this.leave(room, { id });
  }

  /** Removes a user from a room, who cannot join it for some seconds, or until `unban`. */
  ban(room, id, { seconds, message } = {}) {
    const until = seconds === undefined ? undefined : Date.now() + seconds * 1000;
    this.#bans.set(banOf(room, id), { until, reason: message });
    this.#evict(room, id, { reason: "banned", message, until });
  }

  unban(room, id) {
    this.#bans.delete(banOf(room, id));
  }

  /** Ends the connections of all clients, or those of one user, with a close code. */
  drop(code = LOST, { user, reason = "" } = {}) {
    for (const connection of [...this.#connections]) {
      if (user !== undefined && connection.user?.id !== user) continue;
      connection.socket.end(code, { reason, isDeparture: REMOVED.has(code) });
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
    for (const connection of this.#connections) {
      if (user !== undefined && connection.user?.id !== user) continue;
      connection.socket.receive({ type: "goodbye", reconnect: false, after_ms: 0, ...goodbye });
    }
    this.drop(code, { user });
  }

  /** Carries out the next request of this type, and does not answer it. */
  loseAnswer(type = "send") {
    this.#faults.push({ type: requestType(type) });
  }

  /** Refuses the next request of this type. */
  refuse(type, code, { retryAfterMs, message = "The test refuses it.", ...more } = {}) {
    this.#faults.push({ type: requestType(type), error: { code, message, retry_after_ms: retryAfterMs, ...more } });
  }

  /** The tokens of all clients, or that of one user, have expired. */
  expireToken(user) {
    this.goodbye(4004, { reason: "token_expired" }, user);
  }

  /** Refuses the next token. */
  refuseToken() {
    this.refuse("hello", "unauthorized", { message: "The token is not valid." });
  }

  /** Loses what a room keeps, as after a loss of data: clients receive a `gap`. */
  forget(room) {
    const lost = this.#room(room);
    Object.assign(lost, { epoch: this.#newId("epoch"), log: [], offset: 0 });
    this.#broadcast(room, { type: "gap", room, epoch: lost.epoch, offset: 0 });
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
    // `rooms`: whether the client receives the members and presence events, by room.
    this.#connections.add({ socket, user: null, rooms: new Map() });
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
    if (isDeparture) this.leave(room, user);
    else this.#room(room).lost.add(user.id);
  }

  #broadcast(room, frame) {
    for (const { socket, rooms } of this.#connections) {
      if (rooms.has(room) && (frame.type !== "presence" || rooms.get(room))) socket.receive(frame);
    }
  }

  /** What a user may do in a room, in the order of a real server. */
  #granted(user, room) {
    const can = this.#can(user, room);
    return EVERYTHING.filter((capability) => can.includes(capability));
  }

  #receive(socket, text) {
    const connection = this.#of(socket);
    if (!connection) return;
    const { frame, error } = readRequest(text, this.#limits);
    this.received.push(frame);
    const index = this.#faults.findIndex(({ type }) => type === frame.type);
    const [fault] = index < 0 ? [] : this.#faults.splice(index, 1);
    const refused = fault?.error ? { type: "error", ...fault.error } : error && refusal(...error);
    const answer = refused ?? this.#carryOut(connection, frame);
    if (answer && (!fault || fault.error)) socket.receive({ ...answer, id: frame.id });
  }

  /** Carries out a frame. Returns its answer. */
  #carryOut(connection, frame) {
    const { type, room } = frame;
    const { user, rooms } = connection;
    if (!user && !["hello", "ping"].includes(type)) {
      return refusal("unauthorized", "The first request is hello.");
    }
    const needed = NEEDS[type];
    if (needed && !this.#granted(user, room).includes(needed)) {
      return refusal("forbidden", "You have no permission for this.");
    }
    const ban = (needed === "join" || needed === "send") && this.#bans.get(banOf(room, user.id));
    if (ban && !(ban.until <= Date.now())) {
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
      const { epoch, offset } = this.#publish(room, { user, message, data, key });
      return { type: "ok", epoch, offset };
    },
    direct: ({ user }, { to, message, data }) => {
      return { type: "ok", delivered: Math.min(1, this.direct(to, user, message, { data })) };
    },
    typing: ({ user }, { room, typing }) => this.typing(room, user, typing),
    members: ({ user }, { room }) => ({ type: "members", room, ...this.#members(room, user) }),
    history: (_, frame) => this.#history(frame),
    ping: () => ({ type: "pong" }),
    kick: (_, { room, user, reason }) => {
      this.kick(room, user, reason);
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

  #hello(connection, { name, resume, token }) {
    const { user: known, rooms } = connection;
    const id = /^resume of (.*)$/.exec(resume)?.[1] ?? known?.id ?? this.#newId("user");
    const named = { id, name: name === undefined ? (known?.name ?? id) : repairedName(name) };
    const user = token === undefined ? person(named) : this.#userOf(token);
    if (!user) return refusal("unauthorized", "The token is not valid.");
    const isSame = known?.id === user.id && (token !== undefined || known.name === user.name);
    if (rooms.size > 0 && !isSame) {
      return refusal("forbidden", "The user cannot change while the client is in a room.");
    }
    Object.assign(connection, { user, session: connection.session ?? this.#newId("session") });
    this.#recheck(connection);
    return {
      type: "welcome",
      session: connection.session,
      resume: token === undefined ? `resume of ${id}` : undefined,
      user,
      node: "test",
      protocol: 1,
      expires_in_ms: token === undefined ? undefined : this.#expiresInMs,
      heartbeat_ms: 25_000,
      limits: this.#limits,
    };
  }

  /** The rooms follow the name and the capabilities of the latest token. */
  #recheck({ user, rooms, socket }) {
    for (const room of [...rooms.keys()]) {
      const can = this.#granted(user, room);
      rooms.set(room, can.includes("presence"));
      if (can.includes("join")) {
        this.join(room, user);
        continue;
      }
      rooms.delete(room);
      this.#later(() => socket.receive({ type: "left", room, reason: "forbidden" }));
      this.#depart(room, user);
    }
  }

  #join({ user, rooms, socket }, { room, since, history = 0 }) {
    if (!rooms.has(room) && rooms.size >= this.#limits.rooms) {
      return refusal("too_many_rooms", `A connection is in at most ${this.#limits.rooms} rooms.`);
    }
    const can = this.#granted(user, room);
    const seesPresence = can.includes("presence");
    // The client itself receives it after the answer.
    const event = this.#change(room, user);
    if (event && seesPresence && !rooms.has(room)) this.#later(() => socket.receive(presence(room, event, user)));
    this.join(room, user);
    rooms.set(room, seesPresence);
    const answer = { type: "joined", room, ...this.position(room), ...this.#members(room, user, seesPresence), can };
    if (!can.includes("history")) return { ...answer, recovered: false, messages: [], more: false };
    const { epoch, offset, log } = this.#room(room);
    const first = offset - log.length;
    // A room that was empty had no epoch yet.
    const isSame = since?.epoch === epoch || (since?.epoch === "" && since.offset === 0);
    const recovered = isSame && since.offset >= first && since.offset <= offset;
    const asked = since === undefined ? history : 50;
    const messages = recovered ? log.slice(since.offset - first) : log.slice(Math.max(0, log.length - asked));
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
    const { epoch, offset, log } = this.#room(room);
    const all = log.filter((message) => message.offset < before && message.offset > (after ?? 0));
    const most = Math.max(1, limit);
    const messages = after === undefined ? all.slice(-most) : all.slice(0, most);
    return { type: "history", room, epoch, offset, messages, more: all.length > messages.length };
  }

  /** Sends a message to the members of a room, unless its key is known. */
  #publish(name, { user, message, data, key }) {
    const room = this.#room(name);
    const isKnown = key !== undefined && room.keys.get(`${user.id} ${key}`);
    if (isKnown) return isKnown;
    if (room.epoch === "") room.epoch = this.#newId("epoch");
    room.offset += 1;
    const { offset } = room;
    const epoch = offset === 1 ? room.epoch : undefined;
    const frame = { type: "message", room: name, offset, epoch, user, message, data, at: Date.now(), key };
    room.log = [...room.log, frame].slice(-KEPT);
    const position = { epoch: room.epoch, offset };
    if (key !== undefined) room.keys.set(`${user.id} ${key}`, position);
    this.#broadcast(name, frame);
    return position;
  }
}

/** A user by name, or as given. */
function person(user) {
  const { id, name = id, color = "#8A8D99" } = typeof user === "string" ? { id: user } : user;
  return { id, name, color };
}

/** Throws an error for what is no type of a request: a test would wait for it in vain. */
function requestType(type) {
  if (TYPES.includes(type)) return type;
  throw new TypeError(`There is no request of the type ${type}: the types are ${TYPES.join(", ")}.`);
}

/** The key of a ban. */
function banOf(room, id) {
  return JSON.stringify([room, id]);
}

function presence(room, event, user) {
  return { type: "presence", room, event, user };
}

function refusal(code, message) {
  return { type: "error", code, message };
}

/** A class of WebSockets whose other end is `server`: `accepts()`, `passes()`, `opened(socket)`,
 *  `receive(socket, text)`, `closed(socket, isDeparture)` and `later(run)`. */
function webSocketOf(server) {
  return class TestWebSocket {
    onopen = null;
    onmessage = null;
    onerror = null;
    onclose = null;
    readyState = CONNECTING;

    constructor(url, protocols) {
      this.url = new URL(url).href;
      this.protocol = [protocols].flat()[0] ?? "";
      server.later(() => {
        if (this.readyState === CONNECTING) this.#open();
      });
    }

    send(text) {
      if (this.readyState === OPEN && server.passes()) server.later(() => server.receive(this, text));
    }

    /** The client closes; like a browser, it learns of the end later. The code 1000 says that the
     *  user leaves, if it arrives. */
    close(code = NO_CODE, reason = "") {
      this.end(code, { reason, isDeparture: code === NORMAL && server.passes() });
    }

    /** The server sends a frame. */
    receive(frame) {
      if (!server.passes()) return;
      const data = JSON.stringify(frame);
      server.later(() => this.readyState === OPEN && this.onmessage?.({ data }));
    }

    /** The connection ends. */
    end(code, { reason = "", isDeparture = false } = {}) {
      if (this.readyState === CLOSED) return;
      // What was sent before arrives before.
      server.later(() => {
        if (this.readyState === CLOSED) return;
        this.readyState = CLOSED;
        server.closed(this, isDeparture);
        this.onclose?.({ code, reason });
      });
    }

    #open() {
      if (!server.passes()) return;
      if (!server.accepts()) {
        this.onerror?.({ message: "The connection was refused." });
        this.end(LOST);
        return;
      }
      this.readyState = OPEN;
      server.opened(this);
      this.onopen?.({});
    }
  };
}
