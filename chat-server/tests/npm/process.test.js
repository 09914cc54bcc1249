// What keeps a process of Node.js alive: a connection, and the pause before the next one.

import { ok, strictEqual } from "node:assert";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { WebSocketServer } from "ws";

const here = fileURLToPath(new URL(".", import.meta.url));

/** Less than what a client waits for by itself: the close of a `ws`, a ping, a token. */
const ENDS_WITHIN_MS = 15_000;

/** Runs a module, with what its line `import` needs. Resolves to its code, or its signal if it did not end. */
async function codeOf(source, signal) {
  const child = start(source, { timeout: ENDS_WITHIN_MS, signal });
  const [code, end] = await once(child, "exit");
  return end ?? code;
}

function start(source, options) {
  const script = `
    import { ChatClient } from "roomcast";
    import { TestServer } from "roomcast/testing";
    import { WebSocket } from "ws";
    ${source}`;
  const stdio = ["ignore", "pipe", "inherit"];
  return spawn(process.execPath, ["--input-type=module", "-e", script], { cwd: here, stdio, ...options });
}

const inMemory = `
  const server = new TestServer({ expiresInMs: 600_000 });
  const newClient = (options) => new ChatClient("ws://chat.example/ws", { WebSocket: server.WebSocket, ...options });`;

test("close ends it although the server does not answer", async () => {
  const server = new WebSocketServer({ port: 0 });
  server.on("connection", (socket) => {
    socket.once("message", (text) => {
      const user = { id: "u", name: "Ann", color: "#000000" };
      socket.send(JSON.stringify({ type: "welcome", id: JSON.parse(text).id, user, session: "s", limits: {} }));
      socket.pause();
    });
  });
  await once(server, "listening");
  try {
    const code = await codeOf(`
      const chat = new ChatClient("ws://localhost:${server.address().port}", { WebSocket });
      await chat.connect();
      chat.close();`);
    strictEqual(code, 0);
  } finally {
    for (const socket of server.clients) socket.terminate();
    server.close();
  }
});

test("a client without a socket ends with it, as in a test that has failed", async () => {
  const code = await codeOf(`${inMemory}
    const chat = newClient({ token: async () => "ann" });
    await chat.connect();
    await chat.join("r");
    await chat.send("r", "hi");`);
  strictEqual(code, 0);
});

test("a closed client waits for nothing", async () => {
  const code = await codeOf(`${inMemory}
    const chat = newClient();
    await chat.connect();
    await chat.join("r");
    for (const type of ["join", "send"]) server.refuse(type, "rate_limited", { retryAfterMs: 60_000 });
    chat.join("s");
    chat.send("r", "hi");
    const other = newClient({ token: () => new Promise(() => {}) });
    other.connect();
    await new Promise((resolve) => setTimeout(resolve, 100));
    for (const client of [chat, other]) client.close();`);
  strictEqual(code, 0);
});

test("what a program waits for is awaited", async () => {
  const code = await codeOf(`${inMemory}
    const chat = newClient();
    await chat.connect();
    for (const type of ["join", "send"]) server.refuse(type, "rate_limited", { retryAfterMs: 100 });
    await chat.join("r");
    await chat.send("r", "hi");`);
  strictEqual(code, 0);
});

test("a program between two attempts does not end", async () => {
  const ending = new AbortController();
  const child = start(
    `${inMemory}
    const chat = newClient({ backoffBaseMs: 100, backoffCapMs: 100 });
    await chat.connect();
    chat.on("state", ({ state }) => console.log(state));
    server.isReachable = false;
    server.drop();`,
    { timeout: ENDS_WITHIN_MS, signal: ending.signal },
  );
  child.on("error", () => {});
  let attempts = 0;
  for await (const state of createInterface({ input: child.stdout })) {
    attempts += state === "connecting";
    if (attempts === 5) ending.abort();
  }
  ok(attempts >= 5);
});
