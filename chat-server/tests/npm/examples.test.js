// The examples of docs/javascript.md, docs/recipes.md and the READMEs: each is in the page as it is here, and does
// what the page says. Those that need a browser or a process of their own are tested in ../browser, too.

import { deepStrictEqual, match, ok, rejects, strictEqual } from "node:assert";
import { spawn, spawnSync } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { afterEach, beforeEach, test } from "node:test";

import { ChatClient } from "roomcast";
import { TestServer } from "roomcast/testing";
import { get } from "svelte/store";

import { end } from "./examples/end.js";
import { offerToJoin } from "./examples/rejoin.js";
import { openRoom } from "./examples/room.js";
import { connectionStore, roomStore } from "./examples/svelte.js";
import "./examples/testing.js";
import { keepDrafts, keepUnsent } from "./examples/unsent.js";
import { FINAL, sentence } from "./examples/words.js";
import { kill, portOf, until } from "./port.js";

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

const read = (file) => readFileSync(new URL(file, import.meta.url), "utf8");
const PAGES = ["../../../docs/javascript.md", "../../../docs/recipes.md", "../../web/README.md", "../../../README.md"];

/** The examples that are in the pages, and no file: how they begin, and where they are tested. */
const ELSEWHERE = { '<ul id="log"></ul>\n<script type="module">': "browser/embed.rs" };

test("the pages have the examples as they are tested", () => {
  const pages = PAGES.map(read).join();
  for (const file of readdirSync(new URL("examples/", import.meta.url))) {
    ok(pages.includes(read(`examples/${file}`)), file);
  }
});

test("the pages have no other examples", () => {
  const files = new Set(readdirSync(new URL("examples/", import.meta.url)).map((file) => read(`examples/${file}`)));
  const blocks = PAGES.map(read).flatMap((page) => [...page.matchAll(/^```(?:js|ts|tsx|vue|html)\n(.*?)^```$/gms)]);
  const others = blocks.map(([, block]) => block).filter((block) => !files.has(block));
  const starts = Object.keys(ELSEWHERE);
  deepStrictEqual(others.filter((block) => !starts.some((start) => block.startsWith(start))), []);
  strictEqual(others.length, starts.length);
});

/** Runs an example until it logs what it should. Returns that. */
async function runUntil(isDue, file, fetch) {
  const { log } = console;
  const due = new Promise((resolve) => (console.log = (line) => isDue(line) && resolve(line)));
  try {
    await withGlobals({ WebSocket: server.WebSocket, fetch }, async () => {
      await import(`./examples/${file}`);
      await due;
    });
  } finally {
    console.log = log;
    // Its client connects no more, and the test ends.
    server.close();
  }
  return due;
}

test("the README of the package", async () => {
  const isDue = ([line]) => line === "ann: Hello";
  deepStrictEqual(await runUntil(isDue, "readme.js", async () => new Response("ann")), ["ann: Hello"]);
});

test("the README of the project", async () => {
  const messages = await runUntil(([first]) => first?.state === "received", "first.js");
  deepStrictEqual(messages.map(({ user, message }) => [user.name, message]), [["Ann", "Hello"]]);
});

test("a bot with the WebSocket of a package sends back what others write, and not its own messages", async () => {
  const port = await portOf(server);
  const source = read("examples/node.js").replace("localhost:8080", `localhost:${port.address().port}`);
  const cwd = new URL(".", import.meta.url);
  const stdio = ["ignore", "ignore", "inherit"];
  const bot = spawn(process.execPath, ["--input-type=module", "--eval", source], { cwd, stdio });
  const framesOf = (wanted) => server.received.filter(({ type }) => type === wanted);
  const answers = () => framesOf("send").map(({ message }) => message);
  try {
    await until(() => framesOf("join").length === 1);
    for (const text of ["one", "two"]) {
      server.say("general", "Bob", text);
      await until(() => answers().at(-1) === text);
    }
    deepStrictEqual(answers(), ["one", "two"]);
  } finally {
    await kill(bot);
    port.close();
  }
});

test("a test of an application ends if it fails", () => {
  const failing = read("examples/testing.js").replace('"Hello,Hello Bob"', '"another text"');
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

test("a client is closed once its messages are sent", async () => {
  await client.join("r");
  server.refuse("send", "rate_limited", { retryAfterMs: 100 });
  const sent = client.send("r", "Hello");
  await end(client);
  strictEqual((await sent).offset, 1);
  strictEqual(client.state, "closed");
});

test("a room that was left is joined again", async () => {
  const room = client.room("r");
  const [line, button] = [{}, {}];
  offerToJoin(client, room, line, button);
  await settled();
  server.ban("r", client.user.id, { seconds: 3_600, message: "Spam." });
  await settled();
  match(line.textContent, /^You are banned\. This ends at .*\d/);
  // Refused, it says so again.
  button.onclick();
  await settled();
  strictEqual(button.hidden, false);
  server.unban("r", client.user.id);
  button.onclick();
  await settled();
  strictEqual(button.hidden, true);
  strictEqual(room.snapshot.state, "joined");
});

test("a ban after a kick is shown", async () => {
  const room = client.room("r");
  const [line, button] = [{}, {}];
  offerToJoin(client, room, line, button);
  await settled();
  server.kick("r", client.user.id);
  await settled();
  match(line.textContent, /removed/);
  server.goodbye(4003, { reason: "banned", message: "Spam." });
  await settled();
  match(line.textContent, /^You are banned/);
  strictEqual(button.hidden, false);
});

test("a room whose client is closed is joined again", async () => {
  const room = client.room("r");
  const [line, button] = [{}, {}];
  offerToJoin(client, room, line, button);
  await settled();
  for (const end of [() => client.close(), () => server.goodbye(4003, { reason: "banned", message: "Spam." })]) {
    end();
    await settled();
    strictEqual(button.hidden, false);
    button.onclick();
    await settled();
    strictEqual(room.snapshot.state, "joined");
    strictEqual(button.hidden, true);
  }
});

/** A storage of one tab. */
function storageOf(items = {}) {
  return { items, getItem: (name) => items[name] ?? null, setItem: (name, item) => (items[name] = item) };
}

test("a message whose answer was lost is sent again after a reload, and there once", async () => {
  const storage = storageOf();
  const open = (resume) => {
    const chat = new ChatClient("ws://chat.example/ws", { WebSocket: server.WebSocket, resume });
    const room = chat.room("r");
    deepStrictEqual(keepUnsent(room, "unsent ann", storage), []);
    chat.connect();
    return { chat, room };
  };
  const before = open();
  await settled();
  server.loseAnswer("send");
  before.room.send("Hello", { data: { mood: "good" } });
  const kept = structuredClone(storage.items);
  // The reload ends the page without a word.
  const { resume } = before.chat;
  before.chat.close();
  Object.assign(storage.items, kept);
  const { chat, room } = open(resume);
  await settled();
  deepStrictEqual(room.snapshot.messages.map(({ message, data, state }) => [message, data.mood, state]), [
    ["Hello", "good", "received"],
  ]);
  strictEqual(storage.items["unsent ann r"], "[]");
  chat.close();
});

test("the messages of each room are sent again in their own room", async () => {
  const storage = storageOf();
  const open = (chat) => {
    for (const name of ["a", "b"]) keepUnsent(chat.room(name), "unsent ann", storage);
  };
  const before = new ChatClient("ws://chat.example/ws", { WebSocket: server.WebSocket });
  open(before);
  for (const name of ["a", "b"]) before.room(name).send(`for ${name}`);
  const kept = structuredClone(storage.items);
  before.close();
  Object.assign(storage.items, kept);
  open(client);
  await settled();
  deepStrictEqual(["a", "b"].map((name) => texts(client.room(name).snapshot)), [["for a"], ["for b"]]);
});

test("a message that is stored too long is a draft", async () => {
  const old = { key: "k", message: "Hello", at: Date.now() - 5 * 60_000 };
  const room = client.room("r");
  deepStrictEqual(keepUnsent(room, "unsent", storageOf({ "unsent r": JSON.stringify([old]) })), ["Hello"]);
  await settled();
  deepStrictEqual(texts(room.snapshot), []);
});

test("after a reload only failures of the connection are sent again, and what was refused is a draft", async () => {
  const room = client.room("r");
  const at = Date.now();
  const codes = [undefined, "timeout", "outcome_unknown", "disconnected", "offline", "closed", "rejected", "queue_full"];
  const stored = codes.map((code) => ({ key: `key-${code}`, message: `text ${code}`, at, code }));
  const storage = storageOf({ "unsent r": JSON.stringify(stored) });
  deepStrictEqual(keepUnsent(room, "unsent", storage), ["text rejected", "text queue_full"]);
  await settled();
  deepStrictEqual(texts(room.snapshot), codes.slice(0, -2).map((code) => `text ${code}`));
  strictEqual(storage.items["unsent r"], "[]");
});

test("a message keeps the time of its first attempt, and the code of its failure", async () => {
  const storage = storageOf();
  const room = client.room("r");
  keepUnsent(room, "unsent", storage);
  await settled();
  server.refuse("send", "rejected");
  await room.send("Hello").catch(() => {});
  const [failed] = JSON.parse(storage.items["unsent r"]);
  strictEqual(failed.code, "rejected");
  await settled();
  server.isSilent = true;
  room.resend(failed.key);
  const [again] = JSON.parse(storage.items["unsent r"]);
  deepStrictEqual([again.at, again.code], [failed.at, undefined]);
});

test("a storage that is full keeps nothing, and the messages are sent", async () => {
  const storage = storageOf({ "unsent r": "[]" });
  storage.setItem = () => {
    throw new DOMException("It is full.", "QuotaExceededError");
  };
  storage.removeItem = (name) => delete storage.items[name];
  const room = client.room("r");
  keepUnsent(room, "unsent", storage);
  room.send("Hello");
  await settled();
  deepStrictEqual(texts(room.snapshot), ["Hello"]);
  deepStrictEqual(storage.items, {});
});

test("a draft of each room survives a reload, and the next save", () => {
  const storage = storageOf({ "draft ann a": "Written" });
  const open = (name) => {
    const input = Object.assign(new EventTarget(), { form: new EventTarget() });
    const drafts = keepDrafts(input, "draft ann", storage);
    drafts.show(name);
    return { input, drafts };
  };
  const { drafts } = open("a");
  drafts.add("a", ["before", "the reload"]);
  drafts.add("b", ["for b"]);
  const { input, drafts: later } = open("a");
  strictEqual(input.value, "Written before the reload");
  input.value = "Hello";
  input.dispatchEvent(new Event("input"));
  later.show("b");
  strictEqual(input.value, "for b");
  input.form.dispatchEvent(new Event("reset"));
  deepStrictEqual(["a", "b"].map((name) => open(name).input.value), ["Hello", ""]);
});

test("each code that a user may meet has a sentence, and the moderator's words are apart", () => {
  const other = sentence({ code: "internal" });
  const codes = ["banned", "kicked", "closed", "timeout", "outcome_unknown", "unauthorized", "not_in_room", "offline"];
  codes.push("room_name_invalid", "too_many_rooms", "disconnected", ...FINAL);
  for (const code of codes) {
    const text = sentence({ code, message: "of a program", reason: "Spam." });
    ok(text !== other && !/program|Spam|undefined/.test(text), text);
  }
});

test("a backend that is away does not end the client of the README", async () => {
  const answers = [new Response("<h1>Bad gateway</h1>", { status: 502 })];
  const fetch = async () => answers.shift() ?? new Response("ann");
  await runUntil(([line]) => line === "ann: Hello", "readme.js?away", fetch);
  ok(server.received.some(({ token }) => token === "ann"));
  ok(!server.received.some(({ token }) => token?.includes("gateway")));
});

test("logging out", async () => {
  const pages = [];
  let answer = () => new Response("ann");
  let status = 500;
  const globals = {
    WebSocket: server.WebSocket,
    fetch: async (path) => (path === "/logout" ? new Response("", { status }) : answer()),
    location: { assign: (page) => pages.push(page) },
    BroadcastChannel: class {
      constructor() {
        tabs.push(this);
      }
      postMessage(data) {
        posts.push(data);
      }
    },
  };
  const [tabs, posts] = [[], []];
  await withGlobals(globals, async () => {
    const { chat, logOut } = await import("./examples/logout.js");
    await chat.connect();
    // Nothing that waits for a dead line comes first.
    server.isSilent = true;
    const failing = logOut();
    strictEqual(chat.state, "closed");
    // The session goes on.
    await rejects(failing, /500/);
    deepStrictEqual([pages, posts], [[], []]);
    server.isSilent = false;
    await chat.connect();
    status = 200;
    await logOut();
    deepStrictEqual([pages, posts], [["/login"], [""]]);
    // In another tab.
    await chat.connect();
    tabs[0].onmessage();
    strictEqual(chat.state, "closed");
    deepStrictEqual(pages.splice(0), ["/login", "/login"]);
    answer = () => new Response("", { status: 401 });
    await rejects(chat.connect(), { code: "unauthorized", message: "You have logged out." });
    deepStrictEqual(pages.splice(0), ["/login"]);
    // The server refuses what the backend gives: another log-in would not help.
    server.refuseToken();
    answer = () => new Response("ann");
    await rejects(chat.connect(), { code: "unauthorized" });
    deepStrictEqual(pages, []);
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
