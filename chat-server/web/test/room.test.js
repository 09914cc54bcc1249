// The room as an application shows it.

import { deepStrictEqual, ok, strictEqual } from "node:assert";
import { afterEach, beforeEach, suite, test } from "node:test";

import { ChatClient } from "../chat-client.js";
import { TestServer } from "../chat-testing.js";
import { FakeTime, settled } from "./fakes.js";

let time;
let server;
let chat;

beforeEach(() => {
  time = new FakeTime();
  time.install();
  server = new TestServer();
  chat = new ChatClient("ws://chat.example/ws", { WebSocket: server.WebSocket, name: "Ann" });
  chat.connect();
});
afterEach(() => {
  chat.close();
  time.uninstall();
});

async function openRoom(options) {
  const room = chat.room("r", options);
  await settled();
  return room;
}

const texts = ({ snapshot }) => snapshot.messages.map(({ message }) => message);
const states = ({ snapshot }) => snapshot.messages.map(({ message, state }) => `${message} ${state}`);

suite("a room", () => {
  test("is joined by the first holder and left after the last", async () => {
    const first = await openRoom();
    const second = chat.room("r");
    strictEqual(first, second);
    first.release();
    await time.advance(1);
    deepStrictEqual(chat.rooms, ["r"]);
    // Another holder follows at once, as under the StrictMode of React.
    second.release();
    const third = chat.room("r");
    await time.advance(1);
    deepStrictEqual(chat.rooms, ["r"]);
    third.release();
    await time.advance(1);
    deepStrictEqual(chat.rooms, []);
    strictEqual(server.received.filter(({ type }) => type === "join").length, 1);
  });

  test("has pages and live messages in order, each once", async () => {
    for (let n = 1; n <= 10; n += 1) server.say("r", "Bob", `m${n}`);
    const room = await openRoom({ history: 3 });
    deepStrictEqual(texts(room), ["m8", "m9", "m10"]);
    ok(room.snapshot.hasMore);
    server.say("r", "Bob", "m11");
    const pages = [room.history(4), room.history(4)];
    ok(room.snapshot.isLoading);
    await Promise.all(pages);
    deepStrictEqual(texts(room), ["m4", "m5", "m6", "m7", "m8", "m9", "m10", "m11"]);
    await room.history(100);
    strictEqual(texts(room).length, 11);
    strictEqual(room.snapshot.hasMore, false);
  });

  test("has what was sent while the connection was away", async () => {
    const room = await openRoom();
    server.isReachable = false;
    server.drop();
    await settled();
    server.say("r", "Bob", "missed");
    room.send("mine");
    deepStrictEqual(states(room), ["mine sending"]);
    server.isReachable = true;
    await time.advance(5_000);
    deepStrictEqual(texts(room), ["missed", "mine"]);
  });

  test("has a room that the client was in before", async () => {
    server.say("r", "Bob", "old");
    await chat.join("r");
    server.say("r", "Bob", "older than the room");
    const room = await openRoom();
    server.say("r", "Bob", "new");
    await settled();
    deepStrictEqual(texts(room), ["old", "older than the room", "new"]);
  });

  test("marks the message after a gap", async () => {
    for (const text of ["older", "before"]) server.say("r", "Bob", text);
    const room = await openRoom({ history: 1 });
    ok(room.snapshot.hasMore);
    const changes = [];
    room.on("change", ({ what }) => changes.push(what));
    server.forget("r");
    server.say("r", "Bob", "after");
    await settled();
    deepStrictEqual(changes, ["gap", "message"]);
    deepStrictEqual(room.snapshot.messages.map(({ isAfterGap }) => isAfterGap ?? false), [false, true]);
    strictEqual(room.snapshot.hasMore, false);
  });

  test("keeps no more messages than it may, and loads them again", async () => {
    const room = await openRoom({ keep: 10 });
    for (let n = 1; n <= 30; n += 1) server.say("r", "Bob", `m${n}`);
    await settled();
    ok(texts(room).length <= 11);
    ok(room.snapshot.hasMore);
  });

  test("has no pages before a message of an earlier sequence", async () => {
    const room = await openRoom({ keep: 10 });
    for (let n = 1; n <= 6; n += 1) server.say("r", "Bob", `old ${n}`);
    await settled();
    server.forget("r");
    for (let n = 1; n <= 6; n += 1) server.say("r", "Bob", `new ${n}`);
    await settled();
    ok(texts(room).includes("old 6"));
    strictEqual(room.snapshot.hasMore, false);
    await room.history(100);
    deepStrictEqual(new Set(texts(room)).size, texts(room).length);
  });
});

suite("a message of the client", () => {
  test("is pending, sent, and then received, once", async () => {
    const room = await openRoom();
    const seen = [];
    room.on("change", () => seen.push(states(room).join()));
    const sent = room.send("hi", { data: { n: 1 } });
    strictEqual((await sent).key, sent.key);
    await settled();
    deepStrictEqual(new Set(seen), new Set(["hi sending", "hi received"]));
    const [message] = room.snapshot.messages;
    ok(message.isOwn);
    deepStrictEqual(message.data, { n: 1 });
  });

  test("says why it failed, is sent again under its key, or dropped", async () => {
    const room = await openRoom();
    server.refuse("send", "forbidden");
    const { key } = room.send("refused");
    await settled();
    const [failed] = room.snapshot.messages;
    deepStrictEqual([failed.state, failed.error.code], ["failed", "forbidden"]);
    strictEqual((await room.resend(key)).key, key);
    await settled();
    deepStrictEqual(states(room), ["refused received"]);

    server.refuse("send", "forbidden");
    const second = room.send("dropped");
    await settled();
    room.discard(second.key);
    deepStrictEqual(texts(room), ["refused"]);
  });

  test("that waits is neither sent again nor dropped", async () => {
    const room = await openRoom();
    server.isSilent = true;
    const { key } = room.send("waits");
    room.discard(key);
    strictEqual(await room.resend(key).catch(({ code }) => code), "bad_field");
    strictEqual(await room.resend("unknown").catch(({ code }) => code), "bad_field");
    deepStrictEqual(states(room), ["waits sending"]);
  });

  test("has its user as soon as the client knows it", async () => {
    const other = new ChatClient("ws://chat.example/ws", { WebSocket: server.WebSocket, name: "Cid" });
    const room = other.room("r");
    room.send("early");
    const shown = () => `${room.snapshot.messages[0].user.name} ${states(room)}`;
    strictEqual(shown(), " early sending");
    server.loseAnswer("join");
    other.connect();
    await settled();
    strictEqual(shown(), "Cid early sending");
    other.close();
  });

  test("is delayed by an error that passes", async () => {
    const room = await openRoom();
    server.refuse("send", "rate_limited", { retryAfterMs: 1_000 });
    room.send("later");
    await settled();
    deepStrictEqual(states(room), ["later delayed"]);
    await time.advance(2_000);
    deepStrictEqual(states(room), ["later received"]);
  });

  test("is sent once although its answer is lost", async () => {
    const room = await openRoom();
    server.loseAnswer("send");
    const sent = room.send("once");
    await time.advance(20_000);
    await sent;
    deepStrictEqual(states(room), ["once received"]);
  });
});

suite("the people of a room", () => {
  test("join and leave", async () => {
    const room = await openRoom();
    const changes = [];
    room.on("change", ({ what, event, user }) => what === "members" && changes.push(`${user.name} ${event}`));
    server.join("r", "Bob");
    await settled();
    deepStrictEqual(room.snapshot.members.map(({ name }) => name), ["Ann", "Bob"]);
    strictEqual(room.snapshot.count, 2);
    server.leave("r", "Bob");
    await settled();
    strictEqual(room.snapshot.count, 1);
    deepStrictEqual(changes, ["Bob joined", "Bob left"]);
  });

  test("type, until they send, stop or are silent", async () => {
    const room = await openRoom();
    const typists = () => room.snapshot.typists.map(({ name }) => name);
    server.typing("r", "Bob");
    server.typing("r", "Cid");
    await settled();
    deepStrictEqual(typists(), ["Bob", "Cid"]);
    server.say("r", "Bob", "hi");
    await settled();
    deepStrictEqual(typists(), ["Cid"]);
    await time.advance(5_000);
    deepStrictEqual(typists(), []);
  });
});

suite("a room is left", () => {
  test("by a kick, and joined again by the next holder", async () => {
    const room = await openRoom();
    server.kick("r", chat.user.id, "Calm down.");
    await settled();
    const { state, error } = room.snapshot;
    deepStrictEqual([state, error.code, error.message], ["left", "kicked", "Calm down."]);
    strictEqual(chat.room("r"), room);
    deepStrictEqual([room.snapshot.state, room.snapshot.error], ["joining", null]);
    await settled();
    strictEqual(room.snapshot.state, "joined");
  });

  test("by a join that is refused", async () => {
    server.refuse("join", "forbidden");
    const room = await openRoom();
    deepStrictEqual([room.snapshot.state, room.snapshot.error.code], ["left", "forbidden"]);
  });

  test("but not by the end of the client, which connects again", async () => {
    const other = new ChatClient("ws://chat.example/ws", { WebSocket: server.WebSocket });
    const room = other.room("r");
    other.close();
    await settled();
    other.connect();
    await time.advance(1_000);
    strictEqual(room.snapshot.state, "joined");
    other.close();
  });
});

test("a snapshot is the same until something changes", async () => {
  const room = await openRoom();
  const { snapshot } = room;
  strictEqual(room.snapshot, snapshot);
  server.say("r", "Bob", "hi");
  await settled();
  ok(room.snapshot !== snapshot);
});
