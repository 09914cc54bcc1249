// Sends the same requests to a real server and to the `TestServer`, and prints the frames that one of
// them sends and the other one does not. `package.rs` runs it.

import { setTimeout as pause } from "node:timers/promises";

import { TestServer } from "roomcast/testing";
import { WebSocket } from "ws";

/** What any two servers choose for themselves. */
const OWN = new Set(["session", "resume", "node", "color", "at", "limits", "epoch", "heartbeat_ms"]);

/** What a server writes for people. */
const isText = (name, { type }) => name === "message" && type === "error";

/** Who sends what, one after the other. `$ann` is Ann's id, `$epoch` the epoch of the room. */
const REQUESTS = [
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
];

/** Sends all requests. Returns the frames that each user receives. */
async function framesOf(url, WebSocket) {
  const names = new Map();
  const users = {};
  for (const name of ["ann", "bob"]) {
    const socket = new WebSocket(url, ["chat.v1"]);
    users[name] = { socket, frames: [] };
    socket.onmessage = ({ data }) => users[name].frames.push(JSON.parse(data));
    await new Promise((resolve) => (socket.onopen = resolve));
  }
  for (const [index, [name, request]] of REQUESTS.entries()) {
    const { socket, frames } = users[name];
    const id = index + 1;
    const text = JSON.stringify({ ...request, id }, (_, value) => names.get(value) ?? value);
    socket.send(text);
    for (let wait = 0; !frames.some((frame) => frame.id === id) && wait < 5_000; wait += 5) await pause(5);
    const answer = frames.find((frame) => frame.id === id) ?? {};
    if (answer.type === "welcome") names.set(`$${name}`, answer.user.id);
    if (answer.epoch) names.set("$epoch", answer.epoch);
  }
  await pause(200);
  for (const { socket } of Object.values(users)) socket.close();
  const ids = new Map([...names].map(([name, id]) => [id, name]));
  const comparable = (frame) =>
    JSON.parse(JSON.stringify(frame), function (name, value) {
      return OWN.has(name) || isText(name, this) ? undefined : (ids.get(value) ?? value);
    });
  return Object.entries(users).flatMap(([name, { frames }]) => frames.map((frame) => ({ to: name, ...comparable(frame) })));
}

/** Whether `frame` has all that `other` has. */
function covers(frame, other) {
  if (typeof other !== "object" || other === null) return frame === other;
  if (Array.isArray(other) && frame?.length !== other.length) return false;
  return Object.keys(other).every((name) => covers(frame?.[name], other[name]));
}

const server = new TestServer({ can: () => ["join", "send", "history", "presence"] });
const ours = await framesOf("ws://chat.example/ws", server.WebSocket);
const real = await framesOf(process.env.CHAT_URL, WebSocket);
const others = real.filter((frame) => {
  const index = ours.findIndex((other) => covers(other, frame));
  if (index >= 0) ours.splice(index, 1);
  return index < 0;
});
console.log(JSON.stringify({ others, ours }));
