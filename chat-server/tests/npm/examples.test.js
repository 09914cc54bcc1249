// The examples of docs/javascript.md: each is in the page as it is here, and does what the page says.

import { deepStrictEqual, match, ok, rejects, strictEqual } from "node:assert";
import { spawnSync } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { afterEach, beforeEach, test } from "node:test";

import { ChatClient } from "roomcast";
import { TestServer } from "roomcast/testing";
import { get } from "svelte/store";

import { offerToJoin } from "./examples/rejoin.js";
import { openRoom } from "./examples/room.js";
import { connectionStore, roomStore } from "./examples/svelte.js";
import "./examples/testing.js";

let server;
let client;

beforeEach(() => {
  server = new TestServer();
  client = new ChatClient("ws://chat.example/ws", { WebSocket: server.WebSocket, name: "Ann" });
  client.connect();
});
afterEach(() => client.close());

const settled = () => new Promise((resolve) => setTimeout(resolve, 5));
const texts = ({ messages }) => messages.map(({ message }) => message);

/** Runs something with other globals. */
async function withGlobals(globals, run) {
  const before = Object.fromEntries(Object.keys(globals).map((name) => [name, globalThis[name]]));
  Object.assign(globalThis, globals);
  try {
    await run();
  } finally {
    Object.assign(globalThis, before);
  }
}

test("the pages have the examples as they are tested", () => {
  const pages = ["../../../docs/javascript.md", "../../web/README.md"];
  const texts = pages.map((page) => readFileSync(new URL(page, import.meta.url), "utf8")).join();
  for (const file of readdirSync(new URL("examples/", import.meta.url))) {
    ok(texts.includes(readFileSync(new URL(`examples/${file}`, import.meta.url), "utf8")), file);
  }
});

test("the README of the package", async () => {
  const lines = [];
  const { log } = console;
  const fetch = async () => new Response("ann");
  await withGlobals({ WebSocket: server.WebSocket, fetch }, async () => {
    console.log = (line) => lines.push(line);
    await import("./examples/readme.js").finally(() => (console.log = log));
  });
  await settled();
  deepStrictEqual(lines.at(-1), ["ann: Hello"]);
  // Its client connects no more, and the test ends.
  server.close();
});

test("a test of an application ends if it fails", () => {
  const text = readFileSync(new URL("examples/testing.js", import.meta.url), "utf8");
  const failing = text.replace('"Hello,Hello Bob"', '"another text"');
  const args = ["--input-type=module"];
  const options = { cwd: new URL(".", import.meta.url), input: failing, encoding: "utf8", timeout: 20_000 };
  const { status, stdout } = spawnSync(process.execPath, args, options);
  match(stdout, /another text/);
  strictEqual(status, 1);
});

test("a room", async () => {
  let shown;
  const end = openRoom(client, (snapshot) => (shown = snapshot));
  await settled();
  deepStrictEqual(shown.messages.map(({ message, data }) => [message, data.mood]), [["Hello", "good"]]);
  end();
  await settled();
  deepStrictEqual(client.rooms, []);
});

test("a room that was left is joined again", async () => {
  const room = client.room("r");
  const button = {};
  offerToJoin(room, button);
  await settled();
  server.ban("r", client.user.id, { seconds: 3_600, message: "Spam." });
  await settled();
  match(button.textContent, /^Spam\. Try again after .*\d/);
  server.unban("r", client.user.id);
  button.onclick();
  await settled();
  strictEqual(button.hidden, true);
  strictEqual(room.snapshot.state, "joined");
});

test("a backend that is away does not end the client of the README", async () => {
  const answers = [new Response("<h1>Bad gateway</h1>", { status: 502 }), new Response("bob")];
  const globals = { WebSocket: server.WebSocket, fetch: async () => answers.shift() ?? new Response("bob") };
  await withGlobals(globals, async () => {
    const { log } = console;
    console.log = () => {};
    await import("./examples/readme.js?away").finally(() => (console.log = log));
  });
  ok(server.received.some(({ token }) => token === "bob"));
  ok(!server.received.some(({ token }) => token?.includes("gateway")));
  server.close();
});

test("logging out", async () => {
  const pages = [];
  const globals = {
    WebSocket: server.WebSocket,
    fetch: async () => new Response("", { status: 401 }),
    location: { assign: (page) => pages.push(page) },
  };
  await withGlobals(globals, async () => {
    const { chat } = await import("./examples/logout.js");
    await rejects(chat.connect(), { code: "unauthorized", message: "You have logged out." });
    deepStrictEqual(pages, ["/login"]);
  });
});

test("the stores for Svelte", async () => {
  const room = roomStore(client, "r");
  const connection = connectionStore(client);
  let shown;
  const end = room.subscribe((snapshot) => (shown = snapshot));
  await settled();
  strictEqual(get(connection).state, "online");
  server.say("r", "Bob", "hi");
  await settled();
  deepStrictEqual(texts(shown), ["hi"]);
  end();
  await settled();
  deepStrictEqual(client.rooms, []);
});
