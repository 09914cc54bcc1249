// Does the same to real servers and to the `TestServer`, and prints the frames that one of them sends
// and the other one does not. `package.rs` runs it with three servers: one that gives everyone
// access, one with tokens, and one without history.

import { createHmac } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";

import { TestServer } from "roomcast/testing";
import { WebSocket } from "ws";

/** The secret of the server with tokens. */
const SECRET = "a secret of thirty-two bytes or more";

/** The key of the API of the server with tokens. */
const API_KEY = "a key for backends";

/** What any two servers choose for themselves. */
const OWN = new Set(["session", "resume", "node", "color", "at", "until", "limits", "epoch", "heartbeat_ms", "expires_in_ms"]);

/** What a server writes for people. */
const isText = (name, { type }) => name === "message" && type === "error";

/** What users may do in each room, on the server with tokens. */
const GRANTS = {
  ann: ["join", "send", "history", "presence", "moderate"],
  bob: ["join", "send", "history", "presence"],
  // Sees neither the history nor the other members.
  cid: ["join", "send"],
  dan: ["join", "direct"],
  eve: ["send", "presence", "history"],
  // By another token of Cid.
  "cid+": ["join", "send", "history", "presence", "moderate", "direct"],
};

const MEMBERS = ["ann", "bob", "cid", "dan", "eve"];

const nested = (depth) => (depth === 0 ? 1 : [nested(depth - 1)]);

/** A request with each of these values of a field. */
const each = (who, request, field, values) => values.map((value) => [who, { ...request, [field]: value }]);

/** Who does what, one after the other: sends a request, ends the connection with `close` (a code, or
 *  `null` for one that is lost), connects again with `open`, or waits with `wait` until lost users have
 *  left. `act`: what the application does to the user by the API. `$ann` is Ann's id, `$epoch` the epoch of the room. */
const OPEN_TO_ALL = [
  ["ann", { type: "hello", name: "Ann" }],
  ["ann", { type: "ping" }],
  ["ann", { type: "send", room: "r", message: "too early" }],
  ["ann", { type: "join", room: "r", history: 10 }],
  ["ann", { type: "send", room: "r", message: "one", key: "k1", data: { n: 1 } }],
  ["ann", { type: "send", room: "r", message: "one", key: "k1", data: { n: 1 } }],
  ["ann", { type: "send", room: "r", message: " \u200b" }],
  ["ann", { type: "send", room: "r", message: "", data: 0 }],
  ["bob", { type: "hello", name: "Bob" }],
  ["bob", { type: "join", room: "r", history: 10 }],
  ["bob", { type: "send", room: "r", message: "two" }],
  ["bob", { type: "members", room: "r" }],
  ["bob", { type: "history", room: "r" }],
  ["bob", { type: "history", room: "r", before: 2 }],
  ["bob", { type: "history", room: "r", after: 1, limit: 1 }],
  ["bob", { type: "direct", to: "$ann", message: "psst", data: { n: 2 } }],
  ["bob", { type: "direct", to: "nobody", message: "psst" }],
  ["bob", { type: "kick", room: "r", user: "$ann" }],
  ["bob", { type: "invented" }],
  ["bob", { type: "leave", room: "r" }],
  ["bob", { type: "leave", room: "r" }],
  ["ann", { type: "send", room: "r", message: "three" }],
  ["bob", { type: "join", room: "r", since: { epoch: "$epoch", offset: 1 } }],
  ["bob", { type: "join", room: "r", since: { epoch: "none", offset: 1 } }],
  ["bob", { type: "leave", room: "r" }],
  ["bob", { type: "join", room: "r", since: { epoch: "none", offset: 1 } }],
  // The latest messages where a room cannot continue: as many as were asked for, or 50.
  ...each("bob", { type: "join", room: "r", since: { epoch: "none", offset: 1 } }, "history", [0, 2, 256, null]),
  ["ann", { type: "join", room: "many" }],
  ...Array.from({ length: 60 }, (_, index) => ["ann", { type: "send", room: "many", message: `m${index}` }]),
  ...each("bob", { type: "join", room: "many", since: { epoch: "none", offset: 1 } }, "history", [256, null]),

  // What a server refuses, or reads in its own way.
  ...each("ann", { type: "send", room: "r" }, "message", ["a\0b", "\ud800", 5, null, "a\nb", "\u0085", "\u001b", "\u202e"]),
  ...each("ann", { type: "send", room: "r", message: "m" }, "data", [
    nested(60), nested(61), nested(63), nested(64), { "\0": 1 }, ["\ud83d"], null, { a: null }, "x".repeat(32_767),
  ]),
  ...each("ann", { type: "send", room: "r", message: "m" }, "key", ["", "k".repeat(126), "k".repeat(127), "é".repeat(63), "\0", 1, null]),
  ["ann", { type: "send", room: "r", message: "x".repeat(32_769) }],
  ...each("ann", { type: "join" }, "room", ["", " ", "\u200b", "a\0", "a\u202e", "x".repeat(129), "é".repeat(65), 5, null]),
  ...each("ann", { type: "join", room: "s" }, "history", [-1, 1.5, "1", 2 ** 32, null, 300]),
  ...each("ann", { type: "join", room: "s" }, "since", [{}, { epoch: 1, offset: 1 }, { epoch: "e", offset: -1 }, "e", null]),
  ...each("ann", { type: "history", room: "r" }, "limit", [-1, 1.5, 0, 2 ** 32, 100_000, null]),
  ...each("ann", { type: "history", room: "r" }, "before", [-1, 1.5, 0]),
  ...each("ann", { type: "history", room: "r" }, "after", [-1, 1.5, 0]),
  ["ann", { type: "history", room: "r", before: 3, after: 1 }],
  ...each("ann", { type: "direct", message: "psst" }, "to", ["", " ", 5, null]),
  ...each("ann", { type: "direct", to: "$bob", message: "psst" }, "data", [nested(59), nested(60)]),
  ["ann", { type: "direct", to: "$bob", message: "a\0b" }],
  ["ann", { type: "typing", room: "r", typing: 1 }],
  ["ann", { type: "typing", room: "r" }],
  ["ann", { type: 5 }],
  ["ann", {}],
  ["ann", { type: "hello", name: "Ann 2" }],
  ["cid", { type: "hello", name: "" }],
  ["cid", { type: "hello", name: "Cid \ud83d" }],
  ["cid", { type: "hello", name: "Cid \u202e" }],

  // A user who is lost, and returns in time.
  ["bob", { close: null }],
  ["ann", { type: "members", room: "r" }],
  ["bob", { open: true }],
  ["bob", { type: "hello", name: "Bob", resume: "$resume of bob" }],
  ["bob", { type: "join", room: "r" }],
  ["bob", { close: 4900 }],
  ["bob", { open: true }],
  ["bob", { type: "hello", name: "Bobby", resume: "$resume of bob" }],
  ["bob", { type: "join", room: "r" }],
  // One who is not back in time, and one who leaves.
  ["bob", { close: null }],
  ["bob", { wait: true }],
  ["ann", { type: "members", room: "r" }],
  ["bob", { open: true }],
  ["bob", { type: "hello", name: "Bob", resume: "$resume of bob" }],
  ["bob", { type: "join", room: "r" }],
  ["bob", { close: 1000 }],
  ["ann", { type: "members", room: "r" }],
];

/** What the application does by the API, and with a `TestServer`. */
const ACTS = {
  leave: { path: "/rooms/r/leave", of: (user) => ({ user }), test: (server, user) => server.leave("r", user) },
  banUser: {
    path: "/users/$user/disconnect",
    of: () => ({ seconds: 60, reason: "Spam." }),
    test: (server, user) => server.banUser(user, { seconds: 60, message: "Spam." }),
  },
  unbanUser: { path: "/users/$user/unban", of: () => ({}), test: (server, user) => server.unbanUser(user) },
};

const WITHOUT_HISTORY = [
  ["ann", { type: "hello", name: "Ann" }],
  ["bob", { type: "hello", name: "Bob" }],
  ["ann", { type: "join", room: "r", history: 5 }],
  ["bob", { type: "join", room: "r" }],
  ["ann", { type: "send", room: "r", message: "one", key: "k" }],
  ["ann", { type: "send", room: "r", message: "one", key: "k" }],
  ["ann", { type: "history", room: "r" }],
  ["bob", { type: "join", room: "r", since: { epoch: "none", offset: 1 } }],
];

const WITH_TOKENS = [
  ["ann", { type: "join", room: "r" }],
  ["ann", { type: "hello", name: "Ann" }],
  ["ann", { type: "hello", token: "" }],
  ...MEMBERS.map((name) => [name, { type: "hello", token: `$token of ${name}`, name: "" }]),
  ...MEMBERS.map((name) => [name, { type: "hello", token: `$token of ${name}`, name: "Other" }]),
  ["ann", { type: "join", room: "r" }],
  ["ann", { type: "send", room: "r", message: "one" }],
  // They receive less, by their capabilities.
  ...["cid", "dan", "eve"].flatMap((name) => [
    [name, { type: "join", room: "r", history: 5 }],
    [name, { type: "join", room: "r", since: { epoch: "$epoch", offset: 0 } }],
    [name, { type: "members", room: "r" }],
    [name, { type: "history", room: "r" }],
    [name, { type: "send", room: "r", message: "hi" }],
    [name, { type: "typing", room: "r", typing: true }],
    [name, { type: "kick", room: "r", user: "ann" }],
  ]),
  ["dan", { type: "direct", to: "ann", message: "psst" }],
  ["eve", { type: "direct", to: "ann", message: "psst" }],
  // With another token a user sees more, and with the first one less again.
  ...["cid+", "cid+", "cid"].flatMap((token) => [
    ["cid", { type: "hello", token: `$token of ${token}` }],
    ["cid", { type: "members", room: "r" }],
    ["cid", { type: "history", room: "r" }],
    ["bob", { type: "join", room: "r" }],
    ["bob", { type: "leave", room: "r" }],
  ]),
  ["bob", { type: "join", room: "r" }],
  ["ann", { type: "typing", room: "r", typing: true }],
  ["ann", { type: "members", room: "r" }],
  ["bob", { type: "leave", room: "r" }],
  ["bob", { type: "join", room: "r" }],

  // Moderation.
  ...each("ann", { type: "ban", room: "r", user: "ghost" }, "seconds", [0, 1.5, -1, "1"]),
  ...each("ann", { type: "kick", room: "r", user: "ghost" }, "reason", ["x".repeat(513), "a\0b", 5, "x".repeat(512)]),
  ...each("ann", { type: "kick", room: "r" }, "user", ["", 5, null]),
  ["bob", { type: "ban", room: "r", user: "ann", seconds: 0 }],
  ["ann", { type: "kick", room: "r", user: "bob", reason: "Calm down." }],
  ["bob", { type: "send", room: "r", message: "hi" }],
  ["bob", { type: "join", room: "r" }],
  ["ann", { type: "ban", room: "r", user: "bob", seconds: 60, reason: "Spam." }],
  ["bob", { type: "send", room: "r", message: "hi" }],
  ["bob", { type: "typing", room: "r", typing: true }],
  ["bob", { type: "join", room: "r" }],
  ["bob", { type: "members", room: "r" }],
  ["ann", { type: "unban", room: "r", user: "bob" }],
  ["ann", { type: "unban", room: "r", user: "bob" }],
  ["bob", { type: "join", room: "r" }],
  // One who was lost may be kicked.
  ["bob", { close: null }],
  ["ann", { type: "kick", room: "r", user: "bob" }],
  ["ann", { type: "members", room: "r" }],
  // By the application.
  ["bob", { open: true }],
  ["bob", { type: "hello", token: "$token of bob" }],
  ["bob", { type: "hello" }],
  ["bob", { type: "join", room: "r" }],
  ["bob", { act: "leave" }],
  ["bob", { type: "send", room: "r", message: "hi" }],
  ["bob", { type: "join", room: "r" }],
  ["bob", { act: "banUser" }],
  ["ann", { type: "members", room: "r" }],
  ["bob", { open: true }],
  ["bob", { type: "hello", token: "$token of bob" }],
  ["bob", { act: "unbanUser" }],
  ["bob", { open: true }],
  ["bob", { type: "hello", token: "$token of bob" }],
];

/** By a token without `rooms`. */
const WITHOUT_ROOMS = [
  ["fay", { type: "hello", token: "$token of fay" }],
  ["fay", { type: "join", room: "fay" }],
  ["fay", { type: "send", room: "fay", message: "one" }],
  ["fay", { type: "direct", to: "nobody", message: "psst" }],
  ["fay", { type: "kick", room: "fay", user: "nobody" }],
];

/** The users, and other tokens of theirs. */
const BY_NAME = [...MEMBERS, "cid+", "fay"];

/** A token that names a user, with a `+` behind the name another one. */
function tokenOf(name) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const text = `${part({ alg: "HS256" })}.${part({
    sub: userOfToken(name),
    name: userOfToken(name),
    kind: name,
    exp: Math.floor(Date.now() / 1000) + 3_600,
    rooms: GRANTS[name] && { "*": GRANTS[name] },
  })}`;
  return `${text}.${createHmac("sha256", SECRET).update(text).digest("base64url")}`;
}

const userOfToken = (name) => name.replace("+", "");

/** Carries out all steps. `lose(socket, id)` ends a connection without a word, `passGrace()` waits until
 *  lost users have left, `act(name, id)` does something by the API, and `settled(index, count)` until what a step causes has arrived, where `count()`
 *  frames have by now. Returns the frames that each user receives. */
async function framesOf(steps, { url, WebSocket, lose, passGrace, act, settled }) {
  const names = new Map(BY_NAME.map((name) => [`$token of ${name}`, tokenOf(name)]));
  const users = {};
  const open = async (name) => {
    const socket = new WebSocket(url, ["chat.v1"]);
    users[name] = { frames: [], ...users[name], socket };
    socket.onmessage = ({ data }) => users[name].frames.push(JSON.parse(data));
    await new Promise((resolve) => (socket.onopen = resolve));
  };
  for (const name of new Set(steps.map(([name]) => name))) await open(name);
  for (const [index, [name, { open: opens, close, wait, act: acts, ...request }]] of steps.entries()) {
    const { socket, frames } = users[name];
    const id = index + 1;
    if (opens) await open(name);
    else if (wait) await passGrace();
    else if (acts) await act(acts, names.get(`$${name}`));
    else if (close !== undefined) {
      const closed = new Promise((resolve) => (socket.onclose = resolve));
      if (close === null) lose(socket, names.get(`$${name}`));
      else socket.close(close);
      await closed;
      await pause(100);
    } else {
      const text = JSON.stringify({ ...request, id }, (_, value) => names.get(value) ?? value);
      socket.send(text);
      const isAnswered = () => frames.some((frame) => frame.id === id);
      // Typing has no answer, unless it is refused.
      const most = request.type === "typing" ? 100 : 5_000;
      for (let waited = 0; !isAnswered() && socket.readyState === 1 && waited < most; waited += 5) await pause(5);
      const answer = frames.find((frame) => frame.id === id) ?? {};
      if (answer.type === "welcome") {
        names.set(`$${name}`, answer.user.id);
        names.set(`$resume of ${name}`, answer.resume);
      }
      if (answer.epoch) names.set("$epoch", answer.epoch);
    }
    await settled(index, () => Object.values(users).reduce((sum, { frames }) => sum + frames.length, 0));
  }
  await pause(200);
  for (const { socket } of Object.values(users)) socket.close();
  const ids = new Map([...names].map(([name, id]) => [id, name]));
  const comparable = (frame) =>
    JSON.parse(JSON.stringify(frame), function (name, value) {
      if (OWN.has(name) || isText(name, this)) return undefined;
      return name === "members" ? inOrder(value) : (ids.get(value) ?? value);
    });
  const all = Object.entries(users).flatMap(([to, { frames }]) => frames.map((frame) => ({ to, ...comparable(frame) })));
  // Whether users who return under another name hear of it themselves depends on the time that it takes.
  return all.filter(({ to, event, user }) => event !== "renamed" || user.id !== `$${to}`);
}

/** The user who asks is the first in a list of members, and the others have no order. */
function inOrder([first, ...others]) {
  return [first, ...others.sort((a, b) => (a.id < b.id ? -1 : 1))];
}

/** Whether `frame` has all that `other` has. */
function covers(frame, other) {
  if (typeof other !== "object" || other === null) return frame === other;
  if (Array.isArray(other) && frame?.length !== other.length) return false;
  return Object.keys(other).every((name) => covers(frame?.[name], other[name]));
}

async function differences(steps, url, options) {
  const server = new TestServer(options);
  /** How many frames have arrived after each step. */
  const counts = [];
  const ours = await framesOf(steps, {
    url: "ws://chat.example/ws",
    WebSocket: server.WebSocket,
    lose: (_, user) => server.drop(1006, { user }),
    passGrace: async () => server.expireGrace(),
    act: async (name, user) => ACTS[name].test(server, user),
    settled: async (index, count) => {
      await server.settled();
      counts[index] = count();
    },
  });
  // A presence event follows the answer that it is about: a close right behind that would overtake it.
  let missing = 0;
  const real = await framesOf(steps, {
    url,
    WebSocket,
    lose: (socket) => socket.terminate(),
    // The default of the server is 5 s.
    passGrace: () => pause(6_000),
    act: (name, user) => post(url, ACTS[name], user),
    settled: async (index, count) => {
      const lack = () => counts[index] - count();
      for (let waited = 0; lack() > missing && waited < 2_000; waited += 5) await pause(5);
      missing = Math.max(missing, lack());
    },
  });
  const others = real.filter((frame) => {
    const index = ours.findIndex((other) => covers(other, frame));
    if (index >= 0) ours.splice(index, 1);
    return index < 0;
  });
  return { others, ours };
}

/** Calls the API of a server. */
async function post(socketUrl, { path, of }, user) {
  const url = new URL(`/api${path.replace("$user", user)}`, socketUrl.replace("ws:", "http:"));
  const headers = { authorization: `Bearer ${API_KEY}`, "content-type": "application/json" };
  const answer = await fetch(url, { method: "POST", headers, body: JSON.stringify(of(user)) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
}

const kindOf = (token) => JSON.parse(Buffer.from(token.split(".")[1], "base64url")).kind;
/** By user: what the latest token allows. */
const granted = {};
const [open, withTokens, withoutHistory] = process.env.CHAT_URLS.split(",");
const userOf = (token) => {
  if (!token) return undefined;
  const name = userOfToken(kindOf(token));
  granted[name] = GRANTS[kindOf(token)];
  return { id: name, name, color: "" };
};
const found = await Promise.all([
  differences(OPEN_TO_ALL, open, {}),
  differences(WITHOUT_HISTORY, withoutHistory, { history: false }),
  differences(WITH_TOKENS, withTokens, { can: ({ id }) => granted[id], userOf }),
  differences(WITHOUT_ROOMS, withTokens, { userOf }),
]);
console.log(JSON.stringify({ others: found.flatMap(({ others }) => others), ours: found.flatMap(({ ours }) => ours) }));
