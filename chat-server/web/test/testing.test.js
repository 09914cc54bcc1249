// The server for tests beside the vectors: its frames have the form of those of a real server.

import { ok } from "node:assert";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

import { TestServer } from "../chat-testing.js";
import { settled } from "./fakes.js";

const VECTORS = new URL("../../../chat-core/tests/vectors/", import.meta.url);
const PROTOCOL = new URL("../../../docs/protocol.md", import.meta.url);

/** All frames of a server in the vectors and in the description of the protocol, by type. */
function knownFrames() {
  const frames = [];
  const collect = (value) => {
    if (typeof value !== "object" || value === null) return;
    if (typeof value.receive?.type === "string") frames.push(value.receive);
    Object.values(value).forEach(collect);
  };
  for (const file of readdirSync(VECTORS).filter((name) => name.endsWith(".json"))) {
    collect(JSON.parse(readFileSync(new URL(file, VECTORS), "utf8")));
  }
  for (const [, block] of readFileSync(PROTOCOL, "utf8").matchAll(/```json server\n(.*?)```/gs)) {
    frames.push(...block.trim().split("\n").map((line) => JSON.parse(line)));
  }
  // Node.js 20 has no `Map.groupBy`.
  const byType = new Map();
  for (const frame of frames) byType.set(frame.type, [...(byType.get(frame.type) ?? []), frame]);
  return byType;
}

/** All that a client receives that asks for everything, and to whom everything happens. */
async function sentFrames() {
  const server = new TestServer();
  const socket = new server.WebSocket("ws://chat.example/ws", ["chat.v1"]);
  const frames = [];
  socket.onmessage = ({ data }) => frames.push(JSON.parse(data));
  await settled();
  const requests = [
    { type: "hello", name: "Ann" },
    { type: "join", room: "r", history: 10 },
    { type: "send", room: "r", message: "hi", data: { n: 1 }, key: "k" },
    { type: "direct", to: "user-1", message: "hi" },
    { type: "members", room: "r" },
    { type: "history", room: "r", before: 10 },
    { type: "ping" },
    { type: "send", room: "elsewhere", message: "hi" },
    { type: "ban", room: "r", user: "bob", seconds: 60 },
    { type: "unban", room: "r", user: "bob" },
    { type: "leave", room: "r" },
    { type: "join", room: "r", since: { epoch: "none", offset: 7 } },
  ];
  for (const [index, frame] of requests.entries()) {
    socket.send(JSON.stringify({ ...frame, id: index + 1 }));
    await settled();
  }
  server.join("r", "Bob");
  server.say("r", "Bob", "hi");
  server.typing("r", "Bob");
  server.leave("r", "Bob");
  server.forget("r");
  server.kick("r", "user-1", "Calm down.");
  server.goodbye(4002, { reason: "kicked", message: "Calm down." });
  await settled();
  return frames;
}

test("its frames have the members of a real server's frames", async () => {
  const known = knownFrames();
  const sent = await sentFrames();
  for (const frame of sent) {
    const examples = known.get(frame.type) ?? [];
    ok(examples.length > 0, `no server sends ${frame.type}`);
    const allowed = new Set(examples.flatMap((example) => Object.keys(example)));
    const foreign = Object.keys(frame).filter((name) => !allowed.has(name));
    ok(foreign.length === 0, `${frame.type} has ${foreign}`);
    const needed = [...allowed].filter((name) => examples.every((example) => name in example));
    const missing = needed.filter((name) => !(name in frame));
    ok(missing.length === 0, `${frame.type} lacks ${missing}: ${JSON.stringify(frame)}`);
  }
  const types = new Set(sent.map(({ type }) => type));
  for (const type of ["welcome", "joined", "left", "ok", "message", "presence", "typing", "direct", "gap", "goodbye", "members", "history", "pong", "error"]) {
    ok(types.has(type), `${type} was not sent`);
  }
});
