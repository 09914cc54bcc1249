// The client beyond the vectors: what an application sees of its calls, events and states.

import { deepStrictEqual, match, ok, rejects, strictEqual, throws } from "node:assert";
import { readFileSync } from "node:fs";
import { afterEach, beforeEach, suite, test } from "node:test";

import { ChatClient, ChatError, Unauthorized } from "../chat-client.js";
import { TestServer } from "../chat-testing.js";
import { FakeTime, settled } from "./fakes.js";

let time;
let server;

beforeEach(() => {
  time = new FakeTime();
  time.install();
  server = new TestServer();
});
afterEach(() => time.uninstall());

function newClient(options) {
  return new ChatClient("ws://chat.example/ws", { WebSocket: server.WebSocket, name: "Ann", ...options });
}

/** A client that is in a room. */
async function member(options) {
  const chat = newClient(options);
  chat.connect();
  chat.join("r");
  await settled();
  return chat;
}

const codeOf = (promise) => promise.then(() => "none", ({ code }) => code);

suite("events", () => {
  test("each message has a position from which another client continues", async () => {
    const chat = await member();
    const positions = [];
    chat.on("message", ({ epoch, offset }) => positions.push({ epoch, offset }));
    await chat.send("r", "one");
    server.say("r", "Bob", "two");
    await settled();
    server.forget("r");
    for (const text of ["three", "four"]) server.say("r", "Bob", text);
    await settled();
    deepStrictEqual(positions.map(({ offset }) => offset), [1, 2, 1, 2]);
    deepStrictEqual(positions[3], server.position("r"));
    ok(positions[0].epoch === positions[1].epoch && positions[1].epoch !== positions[2].epoch);
    const next = newClient();
    next.connect();
    const { recovered, messages } = await next.join("r", { since: positions[2] });
    deepStrictEqual([recovered, messages.map(({ message }) => message)], [true, ["four"]]);
  });

  test("off, once and a signal remove handlers", async () => {
    const chat = newClient();
    const received = [];
    const note = (name) => (detail) => received.push(`${name} ${detail.state}`);
    const controller = new AbortController();
    const off = note("off");
    chat.on("state", off);
    chat.once("state", note("once"));
    chat.on("state", note("signal"), { signal: controller.signal });
    const end = chat.on("state", note("returned"));
    chat.connect();
    controller.abort();
    chat.off("state", off);
    end();
    await settled();
    deepStrictEqual(received, ["off connecting", "once connecting", "signal connecting", "returned connecting"]);
  });

  test("a handler that is given twice is called once, and removed at once", async () => {
    const chat = newClient();
    const received = [];
    const handler = ({ state }) => received.push(state);
    const [end] = [chat.on("state", handler), chat.on("state", handler)];
    chat.connect();
    end();
    await settled();
    deepStrictEqual(received, ["connecting"]);
  });

  test("a handler that is no function is refused at once", () => {
    throws(() => newClient().on("message", undefined), /is a function/);
    throws(() => newClient().once("message", { handleEvent() {} }), /is a function/);
  });

  test("debug writes one line for each event", async () => {
    const lines = [];
    const chat = await member({ debug: (line) => lines.push(line) });
    await chat.send("r", "hi");
    deepStrictEqual(lines.map((line) => line.split(" ", 2).join(" ")), [
      "chat state", "chat state", "chat joined", "chat presence", "chat message",
    ]);
    match(lines[0], /"state":"connecting"/);
  });
});

suite("calls", () => {
  test("the promise of a send carries its key", async () => {
    const chat = await member();
    const sent = chat.send("r", "hi");
    strictEqual((await sent).key, sent.key);
    strictEqual(chat.send("r", "hi", { key: "mine" }).key, "mine");
    strictEqual(chat.send("elsewhere", "hi", { key: "refused" }).key, "refused");
  });

  test("who may not send does not type", async () => {
    server = new TestServer({ can: (user, room) => (room === "r" ? ["join"] : ["join", "send"]) });
    const chat = await member();
    const errors = [];
    chat.on("error", ({ code }) => errors.push(code));
    await chat.join("s");
    for (const room of ["r", "s"]) chat.typing(room, true);
    await settled();
    deepStrictEqual(server.received.filter(({ type }) => type === "typing").map(({ room }) => room), ["s"]);
    deepStrictEqual(errors, []);
  });

  test("data that JSON cannot hold is refused", async () => {
    const chat = await member();
    const circular = {};
    circular.self = circular;
    for (const data of [circular, 1n, { n: 1n }, () => {}, Symbol("s")]) {
      strictEqual(await codeOf(chat.send("r", "hi", { data })), "bad_field");
      strictEqual(await codeOf(chat.direct("u", "hi", { data })), "bad_field");
    }
    strictEqual(await codeOf(chat.send("r", "hi", { data: null })), "none");
  });

  test("connect settles where no server answers, and attempts go on", async () => {
    server.isReachable = false;
    const chat = newClient();
    const connected = codeOf(chat.connect());
    await time.advance(30_000);
    strictEqual(await connected, "timeout");
    server.isReachable = true;
    const again = chat.connect();
    await time.advance(100);
    strictEqual((await again).user.name, "Ann");
  });

  test("a name that nobody could see is refused, and the former one stays", async () => {
    const chat = await member();
    for (const name of ["   ", "\u200b", "\u2800\ufeff", "\u202e", "", 5]) {
      strictEqual(await codeOf(chat.rename(name)), "bad_field", JSON.stringify(name));
      strictEqual(chat.state, "online");
    }
    strictEqual((await chat.rename("👩‍🚀")).user.name, "👩‍🚀");
  });

  test("a token function that hangs is called again after a time that is an option", async () => {
    let calls = 0;
    const token = () => ((calls += 1) === 1 ? new Promise(() => {}) : "ann");
    const chat = newClient({ token, tokenTimeoutMs: 5_000 });
    chat.connect();
    await time.advance(5_000);
    strictEqual(chat.state, "waiting");
    chat.check();
    await settled();
    strictEqual(chat.user.id, "ann");
  });

  test("times and sizes are numbers from 0 on, of which Infinity is the largest", async () => {
    const names = ["connectTimeoutMs", "requestTimeoutMs", "sendTimeoutMs", "tokenTimeoutMs", "pingAfterMs"];
    names.push("pongTimeoutMs", "checkTimeoutMs", "backoffBaseMs", "backoffCapMs", "queueLimit", "queueBytes");
    for (const name of names) {
      for (const value of [-1, NaN, "x", {}]) throws(() => newClient({ [name]: value }), new RegExp(name));
      newClient({ [name]: null });
      newClient({ [name]: undefined });
    }
    const waits = [];
    const { setTimeout: before } = globalThis;
    globalThis.setTimeout = (run, ms) => waits.push(ms) && before(run, ms);
    const chat = await member(Object.fromEntries(names.map((name) => [name, Infinity])));
    await chat.send("r", "hi");
    globalThis.setTimeout = before;
    ok(waits.every((ms) => ms < 2 ** 31), String(waits));
    strictEqual(chat.isFull, false);
    const later = await member({ sendTimeoutMs: 3e9, requestTimeoutMs: 2 ** 31 });
    strictEqual(await codeOf(later.send("r", "hi")), "none");
  });

  test("without a connection joins and sends wait, and other requests are refused", async () => {
    const chat = await member({ backoffBaseMs: 1_000_000 });
    server.drop();
    await settled();
    strictEqual(chat.state, "waiting");
    const waiting = [chat.join("s"), chat.send("r", "hi")].map(codeOf);
    const refused = ["members", "history", "kick", "ban", "unban"].map((name) => chat[name]("r", "bob"));
    const codes = await Promise.all([...refused, chat.direct("bob", "hi"), chat.leave("s2")].map(codeOf));
    deepStrictEqual(codes, [...Array(6).fill("offline"), "none"]);
    chat.typing("r", true);
    await chat.connect();
    deepStrictEqual(await Promise.all(waiting), ["none", "none"]);
    ok(server.received.every(({ type }) => type !== "typing"));
  });

  test("a ban without a number of seconds is none", async () => {
    server = new TestServer({ can: () => ["join", "send", "presence", "moderate"] });
    const chat = await member();
    for (const options of [60, "60", { until: 60_000 }, { minutes: 5 }, { seconds: NaN }]) {
      strictEqual(await codeOf(chat.ban("r", "bob", options)), "bad_field", JSON.stringify(options));
    }
    for (const options of [undefined, {}, { reason: "Spam." }, { seconds: 60 }]) {
      strictEqual(await codeOf(chat.ban("r", "bob", options)), "none");
    }
  });

  test("one kick, ban or unban is unanswered at a time, and other requests pass those that wait", async () => {
    server = new TestServer({ can: () => ["join", "send", "presence", "moderate"] });
    const chat = await member();
    server.loseAnswer("kick");
    const outcomes = [chat.kick("r", "a"), chat.ban("r", "b"), chat.unban("r", "b")].map(codeOf);
    await chat.send("r", "hi");
    await chat.members("r");
    const received = () => server.received.slice(2).map(({ type }) => type);
    deepStrictEqual(received(), ["kick", "send", "members"]);
    await time.advance(15_000);
    deepStrictEqual(await Promise.all(outcomes), ["timeout", "none", "none"]);
    deepStrictEqual(received().filter((type) => type !== "ping").slice(3), ["ban", "unban"]);
  });

  test("a name of a room that is no text is refused", async () => {
    strictEqual(await codeOf((await member()).join(5)), "room_name_invalid");
  });

  test("messages of a token's user are not sent as the user of the next token", async () => {
    let user = "ann";
    const chat = await member({ token: async () => user });
    server.isReachable = false;
    server.drop();
    await settled();
    const sent = codeOf(chat.send("r", "from ann"));
    user = "bob";
    server.isReachable = true;
    await time.advance(1_000);
    strictEqual(chat.user.id, "bob");
    strictEqual(await sent, "other_user");
    ok(!server.received.some(({ message }) => message === "from ann"));
    strictEqual(await codeOf(chat.send("r", "from bob")), "none");
  });

  test("the server repairs the name of a client, which a token replaces, or refuses it", async () => {
    const chat = newClient({ name: "Ann \ud83d", token: "ann" });
    strictEqual((await chat.connect()).user.id, "ann");
    strictEqual(await codeOf(chat.rename("Ann \ud83d")), "bad_field");
    strictEqual(chat.state, "online");
    for (const name of ["", "x".repeat(200)]) {
      strictEqual(await codeOf(newClient({ name, token: "ann" }).connect()), "bad_field");
      strictEqual(await codeOf(chat.rename(name)), "bad_field");
      strictEqual(chat.state, "online");
    }
  });

  test("the length of a name is that of its UTF-8", async () => {
    const chat = await member();
    for (const [character, most] of [["x", 128], ["é", 64], ["日", 42], ["👋", 32]]) {
      strictEqual((await chat.join(character.repeat(most))).count, 1);
      strictEqual(await codeOf(chat.join(character.repeat(most + 1))), "room_name_invalid");
    }
    strictEqual(await codeOf(chat.join("")), "room_name_invalid");
  });

  test("all messages of a long queue may be refused", async () => {
    server = new TestServer({ limits: { message_bytes: 4 } });
    const chat = newClient();
    chat.join("r");
    const sent = Array.from({ length: 20_000 }, () => codeOf(chat.send("r", "too long")));
    chat.connect();
    deepStrictEqual(new Set(await Promise.all(sent)), new Set(["message_too_long"]));
    strictEqual(chat.queued, 0);
  });

  test("a pause that the server asks for outlasts the connection", async () => {
    const chat = await member({ backoffBaseMs: 1 });
    server.refuse("send", "rate_limited", { retryAfterMs: 5_000 });
    const sent = chat.send("r", "hi");
    await settled();
    server.drop();
    await time.advance(4_900);
    strictEqual(chat.state, "online");
    strictEqual(server.received.filter(({ type }) => type === "send").length, 1);
    await time.advance(5_200);
    strictEqual((await sent).offset, 1);
  });

  test("the version is that of the package", () => {
    const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
    strictEqual(ChatClient.version, version);
  });
});

suite("the end of a client says who ended it", () => {
  const endOf = async (end, options) => {
    const chat = await member(options);
    await end(chat);
    await settled();
    const { state, by, message, error } = chat.status;
    return { state, by, message, code: error?.code };
  };

  test("the client", async () => {
    const expected = { state: "closed", by: "client", message: undefined, code: "closed" };
    deepStrictEqual(await endOf((chat) => chat.close()), expected);
  });

  test("a kick and a ban, with the moderator's words", async () => {
    const kick = () => server.goodbye(4002, { reason: "kicked", message: "Calm down." });
    deepStrictEqual(await endOf(kick), { state: "closed", by: "kick", message: "Calm down.", code: "kicked" });
    const ban = () => server.goodbye(4003, { reason: "banned", message: "Spam." });
    deepStrictEqual(await endOf(ban), { state: "closed", by: "ban", message: "Spam.", code: "banned" });
  });

  test("a ban, also to who connects", async () => {
    const chat = newClient();
    const connected = chat.connect().catch((error) => error);
    await Promise.resolve();
    server.goodbye(4003, { reason: "banned", message: "Spam.", until: 1_800_000_000_000 });
    const error = await connected;
    deepStrictEqual({ ...error }, { name: "ChatError", code: "banned", until: 1_800_000_000_000, reason: "Spam." });
    strictEqual(error.message, "Spam.");
    strictEqual(chat.status.reason, "banned");
  });

  test("no token where one is needed", async () => {
    server.refuseToken();
    const { by, code } = await endOf(() => {});
    deepStrictEqual([by, code], ["no_token", "unauthorized"]);
  });

  test("a token that expired, that is refused, and that the application does not have", async () => {
    const expire = () => server.drop(4004);
    strictEqual((await endOf(expire, { token: "ann" })).by, "token_expired");

    let isOver = false;
    const token = async () => {
      if (isOver) throw new Unauthorized("You have logged out.");
      return "ann";
    };
    const refuse = async () => {
      server.refuseToken();
      server.drop();
      await time.advance(1_000);
    };
    const refused = await endOf(refuse, { token });
    deepStrictEqual([refused.by, refused.code], ["token_refused", "unauthorized"]);

    const logOut = async () => {
      isOver = true;
      server.drop();
      await time.advance(1_000);
    };
    const loggedOut = await endOf(logOut, { token });
    deepStrictEqual([loggedOut.by, loggedOut.code], ["no_token", "unauthorized"]);
    await time.advance(600_000);
    strictEqual(server.connections, 0);
  });

  test("a code that is final", async () => {
    strictEqual((await endOf(() => server.drop(1000))).by, "server");
  });

  test("an error of its own without an address", async () => {
    const chat = new ChatClient("http://[", { WebSocket: server.WebSocket });
    await rejects(chat.connect(), ChatError);
    strictEqual(chat.status.by, "client");
  });
});

suite("the network", () => {
  /** Milliseconds until the client is not `online` any more. */
  const timeUntilLost = async (chat) => {
    let lostAt;
    chat.on("state", () => (lostAt ??= performance.now()));
    const begin = performance.now();
    await time.advance(60_000, () => lostAt !== undefined);
    return lostAt - begin;
  };

  test("a swallowed send leads out of online within 12 s, and is sent again", async () => {
    const chat = await member();
    server.isSilent = true;
    const sent = chat.send("r", "hi");
    ok((await timeUntilLost(chat)) <= 12_000);
    server.isSilent = false;
    await time.advance(20_000);
    strictEqual(await codeOf(sent), "none");
  });

  for (const request of ["history", "members", "join", "leave"]) {
    test(`a swallowed ${request} leads out of online within 12 s`, async () => {
      const chat = await member();
      server.isSilent = true;
      chat[request](request === "join" ? "s" : "r");
      ok((await timeUntilLost(chat)) <= 12_000);
      chat.close();
    });
  }

  test("an answer may take twice as long after each silent connection, until all is answered", async () => {
    const chat = await member({ backoffBaseMs: 1 });
    const times = [];
    for (let loss = 0; loss < 3; loss += 1) {
      server.isSilent = true;
      chat.history("r");
      times.push(await timeUntilLost(chat));
      server.isSilent = false;
      // The next connection waits for an answer, too.
      server.loseAnswer("join");
      await time.advance(20_000, () => chat.state === "online");
    }
    await time.advance(20_000);
    server.isSilent = true;
    chat.history("r");
    times.push(await timeUntilLost(chat));
    deepStrictEqual(times.map((ms) => Math.round(ms / 1000)), [10, 15, 25, 10]);
    chat.close();
  });

  test("no pause follows an attempt that hung while the network came back, and one follows the next", async () => {
    const chat = newClient({ backoffBaseMs: 600_000, backoffCapMs: 600_000 });
    const hasPause = [];
    chat.on("state", ({ retryInMs }) => retryInMs !== undefined && hasPause.push(retryInMs > 0));
    server.isSilent = true;
    chat.connect();
    chat.check();
    await time.advance(10_000);
    deepStrictEqual([hasPause, chat.state], [[false], "connecting"]);
    await time.advance(10_000);
    deepStrictEqual([hasPause, chat.state], [[false, true], "waiting"]);
    chat.close();
  });

  test("a check before an attempt, or before the welcome, takes no later pause away", async () => {
    const chat = newClient({ backoffBaseMs: 600_000, backoffCapMs: 600_000 });
    const hasPause = [];
    chat.on("state", ({ retryInMs }) => retryInMs !== undefined && hasPause.push(retryInMs > 0));
    chat.check();
    server.isReachable = false;
    chat.connect();
    await time.advance(1_000);
    deepStrictEqual([hasPause, chat.state], [[true], "waiting"]);
    server.isReachable = true;
    chat.connect();
    chat.check();
    await settled();
    strictEqual(chat.state, "online");
    server.drop();
    await settled();
    deepStrictEqual(hasPause, [true, true]);
    chat.close();
  });

  for (const [minutes, outcome, sends] of [[4, "none", 1], [5, "outcome_unknown", 0]]) {
    test(`a message in flight when the device sleeps for ${minutes} minutes is sent again ${sends} times`, async () => {
      const chat = await member();
      server.isSilent = true;
      const sent = codeOf(chat.send("r", "hi"));
      await settled();
      time.sleep(minutes * 60_000);
      server.isSilent = false;
      server.drop();
      await time.advance(1_000);
      strictEqual(chat.state, "online");
      strictEqual(await sent, outcome);
      strictEqual(server.received.filter(({ type }) => type === "send").length, sends);
    });
  }

  test("the pause begins small again after a connection that held", async () => {
    const chat = await member({ backoffBaseMs: 100 });
    const pauses = [];
    chat.on("state", ({ retryInMs }) => retryInMs !== undefined && pauses.push(retryInMs));
    server.isReachable = false;
    server.drop();
    await time.advance(60_000);
    server.isReachable = true;
    await time.advance(20_000);
    ok(pauses.some((pause) => pause > 100));
    await time.advance(5_000);
    server.drop();
    await settled();
    ok(pauses.at(-1) <= 100);
  });
});

suite("the back/forward cache", () => {
  let page;

  beforeEach(() => {
    page = new EventTarget();
    for (const method of ["addEventListener", "removeEventListener"]) {
      globalThis[method] = (...details) => page[method](...details);
    }
  });
  afterEach(() => {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
  });

  /** Leaves the page, which the browser keeps, or shows it again. */
  const happen = (type, persisted = true) => page.dispatchEvent(Object.assign(new Event(type), { persisted }));
  const received = () => server.received.filter(({ type }) => type === "send").map(({ message }) => message);

  test("a page that is kept has no connection; shown again, it connects at once and sends what it had not", async () => {
    const chat = await member();
    const states = [];
    chat.on("state", ({ state, retryInMs }) => states.push([state, retryInMs]));
    server.isSilent = true;
    const sent = [codeOf(chat.send("r", "in flight"))];
    await settled();
    happen("pagehide");
    server.isSilent = false;
    sent.push(codeOf(chat.send("r", "written while leaving")));
    await time.advance(20_000);
    deepStrictEqual([states, server.connections], [[["waiting", 0]], 0]);
    happen("pageshow");
    strictEqual(chat.state, "connecting");
    await settled();
    deepStrictEqual([chat.state, chat.rooms, server.connections], ["online", ["r"], 1]);
    deepStrictEqual(await Promise.all(sent), ["none", "none"]);
    deepStrictEqual(received(), ["in flight", "written while leaving"]);
    chat.close();
  });

  test("neither a pause nor a token leads to a connection of a page that is kept", async () => {
    const tokens = [];
    const token = () => new Promise((resolve) => tokens.push(resolve));
    const chat = newClient({ token, backoffBaseMs: 100 });
    chat.connect();
    await settled();
    happen("pagehide");
    tokens[0]("ann");
    await time.advance(20_000);
    deepStrictEqual([chat.state, server.connections, tokens.length], ["waiting", 0, 1]);
    happen("pageshow");
    await settled();
    tokens[1]("ann");
    await settled();
    strictEqual(chat.state, "online");
    server.drop();
    await settled();
    strictEqual(chat.state, "waiting");
    happen("pagehide");
    await time.advance(20_000);
    deepStrictEqual([chat.state, tokens.length], ["waiting", 2]);
    chat.close();
  });

  test("a page that is not kept ends its connection by itself", async () => {
    const chat = await member();
    happen("pagehide", false);
    strictEqual(chat.state, "online");
    chat.close();
    happen("pagehide");
    happen("pageshow");
    strictEqual(chat.state, "closed");
  });
});
