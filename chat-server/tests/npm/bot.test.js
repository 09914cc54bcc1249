// The bot of docs/recipes.md, as a process of its own, with a `TestServer` behind a port.

import { deepStrictEqual, ok, strictEqual, throws } from "node:assert";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, suite, test } from "node:test";
import { fileURLToPath } from "node:url";

import { TestServer } from "roomcast/testing";

import { kill, portOf, until } from "./port.js";

let server;
let port;
let folder;
const bots = [];

beforeEach(async () => {
  server = new TestServer({ can: () => ["join", "send", "history", "presence", "moderate"] });
  port = await portOf(server);
  folder = mkdtempSync(join(tmpdir(), "roomcast-bot-"));
});
afterEach(async () => {
  for (const bot of bots.splice(0)) await kill(bot);
  port.close();
  rmSync(folder, { recursive: true });
});

const state = () => join(folder, "bot.json");
const stored = () => (existsSync(state()) ? JSON.parse(readFileSync(state(), "utf8")) : { positions: {} });

/** Starts the bot, which is in its room then. */
async function start(variables) {
  const env = { ...process.env, CHAT_URL: `ws://localhost:${port.address().port}/ws`, STATE: state(), ...variables };
  const cwd = fileURLToPath(new URL(".", import.meta.url));
  const joins = framesOf("join").length;
  const bot = spawn(process.execPath, ["examples/bot.js"], { cwd, env, stdio: ["ignore", "ignore", "inherit"] });
  bots.push(bot);
  await until(() => framesOf("join").length > joins);
  return bot;
}

/** A `TestServer` has the id in the secret. */
const botId = () => stored().resume.split(" ").at(-1);
const framesOf = (wanted) => server.received.filter(({ type }) => type === wanted);
const answers = () => framesOf("send").map(({ message }) => message);
const say = (text) => server.say("general", "Ann", text);
const handled = ({ offset }) => until(() => stored().positions.general?.offset >= offset);

test("a command whose answer failed with the room comes again, before those behind it", async () => {
  say("Hello");
  await start();
  await handled({ offset: 1 });
  // The answer waits when the bot is banned for a moment.
  server.refuse("send", "rate_limited", { retryAfterMs: 60_000 });
  say("!echo one");
  await until(() => answers().length === 1);
  say("Later");
  server.ban("general", botId(), { seconds: 1 });
  await until(() => framesOf("join").length === 2);
  const { since } = framesOf("join")[1];
  deepStrictEqual(since, { epoch: server.position("general").epoch, offset: 1 });
  await handled({ offset: 4 });
  deepStrictEqual(answers(), ["one", "one"]);
});

test("an answer that the room has is not sent again, however late the next start", async () => {
  say("Hello");
  let bot = await start();
  await handled({ offset: 1 });
  copyFileSync(state(), `${state()}.before`);
  say("!echo !who");
  await handled({ offset: 3 });
  await kill(bot);
  // It ended between its answer and the time at which it stores that.
  copyFileSync(`${state()}.before`, state());
  bot = await start();
  await handled({ offset: 3 });
  // Nor has it taken its own words for a command.
  deepStrictEqual(answers(), ["!who"]);
  deepStrictEqual(framesOf("hello").map(({ resume }) => resume), [undefined, stored().resume]);
  strictEqual(statSync(state()).mode & 0o777, 0o600);
});

/** An API that issues tokens of the bot, one after the other, and notes the requests. */
async function tokenApi() {
  const requests = [];
  const api = createServer(async (request, response) => {
    const body = JSON.parse((await request.toArray()).join(""));
    requests.push({ path: request.url, key: request.headers.authorization, ...body });
    response.end(JSON.stringify({ token: `bot#${requests.length}` }));
  });
  api.listen(0);
  await once(api, "listening");
  return { api, requests, url: `http://localhost:${api.address().port}/api` };
}

test("the bot asks for a new token when one has expired", async () => {
  const { api, requests, url } = await tokenApi();
  try {
    await start({ API_URL: url, API_KEY: "key" });
    server.expireToken("bot");
    await until(() => framesOf("join").length === 2);
    deepStrictEqual(framesOf("hello").map(({ token }) => token), ["bot#1", "bot#2"]);
    const { path, key, user, rooms } = requests[0];
    deepStrictEqual([path, key, user], ["/api/tokens", "Bearer key", "bot"]);
    ok(rooms["*"].includes("moderate"));
  } finally {
    api.close();
  }
});

suite("a ban is carried out although the first attempt fails", () => {
  const FAILURES = {
    "with the connection, before it": () => server.loseAnswer("members"),
    "with the connection, behind it": () => server.loseAnswer("ban"),
    "since Redis is unavailable": () => server.refuse("ban", "broker_unavailable"),
  };
  for (const [name, fail] of Object.entries(FAILURES)) {
    test(name, async () => {
      say("Hello");
      await start({ MODERATORS: "Ann" });
      await handled({ offset: 1 });
      server.join("general", "bob");
      fail();
      say("!ban bob 60 spam");
      say("!echo later");
      await until(() => server.faults.length === 0);
      server.drop();
      await handled({ offset: 4 });
      deepStrictEqual(answers(), ["Done.", "later"]);
      const { user, seconds, reason } = framesOf("ban").at(-1);
      deepStrictEqual([user, seconds, reason], ["bob", 60, "spam"]);
      throws(() => server.join("general", "bob"), /bob is banned/);
    });
  }
});

test("blanks and empty entries in the list of rooms do not count", async () => {
  await start({ ROOMS: " general, ,other," });
  await until(() => framesOf("join").length >= 2);
  say("!echo one");
  await until(() => answers().length === 1);
  deepStrictEqual(framesOf("join").map(({ room }) => room), ["general", "other"]);
});

test("an answer that is refused for good is not tried again", async () => {
  say("Hello");
  await start();
  await handled({ offset: 1 });
  server.refuse("send", "rejected");
  say("!echo one");
  await handled({ offset: 2 });
  deepStrictEqual(answers(), ["one"]);
});
