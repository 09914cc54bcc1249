// The room as an application shows it.

import { deepStrictEqual, ok, strictEqual, throws } from "node:assert";
import { getEventListeners } from "node:events";
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
    first.release();
    // It has ended its own use, and once.
    first.release();
    strictEqual(first.snapshot.state, "left");
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
    await room.history(100);
    deepStrictEqual(texts(room), Array.from({ length: 30 }, (_, index) => `m${index + 1}`));
    strictEqual(room.snapshot.hasMore, false);
  });

  test("keeps one message at least", async () => {
    for (const keep of [0, -1]) {
      const room = chat.room(`r${keep}`, { keep });
      await settled();
      for (let n = 1; n <= 3; n += 1) server.say(room.name, "Bob", `m${n}`);
      await settled();
      deepStrictEqual(texts(room), ["m3"]);
    }
  });

  test("has no older messages for who is out, and has them again for who returns", async () => {
    for (let n = 1; n <= 60; n += 1) server.say("r", "Bob", `m${n}`);
    const room = await openRoom({ history: 10 });
    const isOut = async () => {
      await settled();
      deepStrictEqual([room.snapshot.state, room.snapshot.hasMore], ["left", false]);
      await room.history();
      strictEqual(texts(room).length, 10);
    };
    server.kick("r", chat.user.id);
    await isOut();
    await room.join();
    strictEqual(room.snapshot.hasMore, true);
    chat.close();
    await isOut();
    await chat.connect();
    await settled();
    strictEqual(room.snapshot.hasMore, true);
    await room.history(10);
    strictEqual(texts(room).length, 20);
  });

  // Node warns of more than ten listeners.
  test("needs no listener of its client, which tells it first", async () => {
    const room = await openRoom();
    for (const type of ["state", "message", "joined"]) strictEqual(getEventListeners(chat, type).length, 0);
    let seen;
    chat.on("message", () => (seen = texts(room)));
    server.say("r", "Bob", "hi");
    await settled();
    deepStrictEqual(seen, ["hi"]);
  });

  test("has the pages that it loads above the number of messages that it keeps", async () => {
    for (let n = 1; n <= 60; n += 1) server.say("r", "Bob", `m${n}`);
    const room = await openRoom({ history: 10, keep: 20 });
    for (let pages = 0; room.snapshot.hasMore; pages += 1) {
      ok(pages < 6);
      await room.history(10);
    }
    strictEqual(texts(room).length, 60);
    // New ones drop the oldest, which can be loaded again.
    server.say("r", "Bob", "new");
    await settled();
    strictEqual(texts(room).length, 61);
    for (let n = 1; n <= 10; n += 1) server.say("r", "Bob", `new ${n}`);
    await settled();
    ok(texts(room).length <= 66);
    ok(room.snapshot.hasMore);
    await room.history(100);
    strictEqual(texts(room).length, 71);
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
    strictEqual(shown(), "Cid early sending");
    strictEqual(room.snapshot.messages[0].user.id, "");
    server.loseAnswer("join");
    other.connect();
    await settled();
    strictEqual(shown(), "Cid early sending");
    strictEqual(room.snapshot.messages[0].user.id, other.user.id);
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

  test("that failed is there when its room is taken again", async () => {
    const first = await openRoom();
    server.refuse("send", "forbidden");
    const { key } = first.send("refused");
    await settled();
    first.release();
    await time.advance(1);
    deepStrictEqual(chat.rooms, []);
    deepStrictEqual((await openRoom()).snapshot.messages.map(({ error }) => error.code), ["forbidden"]);
    const room = chat.room("r");
    room.send("another");
    await settled();
    deepStrictEqual(states(room), ["another received", "refused failed"]);
    strictEqual(new Set(room.snapshot.messages.map(({ id }) => id)).size, 2);
    await room.resend(key);
    await settled();
    deepStrictEqual(states(room), ["another received", "refused received"]);
  });

  test("that fails while its room is not shown is there when it is taken again", async () => {
    const first = await openRoom();
    server.isReachable = false;
    server.drop();
    await settled();
    first.send("late");
    first.release();
    await time.advance(60_000);
    deepStrictEqual(chat.rooms, []);
    const room = chat.room("r");
    deepStrictEqual(states(room), ["late failed"]);
    const [{ key }] = room.snapshot.messages;
    room.discard(key);
    room.release();
    await time.advance(1);
    deepStrictEqual(states(chat.room("r")), []);
    deepStrictEqual(states(chat.room("other")), []);
  });

  test("that failed is kept with the latest 200 of rooms that are not shown", async () => {
    const room = await openRoom();
    server.kick("r", chat.user.id);
    await settled();
    for (let n = 1; n <= 210; n += 1) room.send(`m${n}`);
    await settled();
    room.release();
    await time.advance(1);
    const shown = texts(chat.room("r"));
    deepStrictEqual([shown.length, shown[0], shown.at(-1)], [200, "m11", "m210"]);
  });

  test("that is sent again after a reload is there once", async () => {
    const { key, offset } = await openRoom().then((room) => room.send("once"));
    server.say("r", "Bob", "answer");
    const other = new ChatClient("ws://chat.example/ws", {
      WebSocket: server.WebSocket,
      resume: chat.resume,
    });
    other.connect();
    for (const history of [50, 1]) {
      const room = other.room("r", { history });
      await settled();
      strictEqual((await room.send("once", { key })).offset, offset);
      await settled();
      deepStrictEqual(states(room), ["once received", "answer received"].slice(-history));
      await room.history();
      deepStrictEqual(states(room), ["once received", "answer received"]);
      room.release();
      await time.advance(1);
    }
    other.close();
  });

  test("has one id on its way, and no other message has it", async () => {
    server.say("r", "Bob", "older");
    server.say("r", "Bob", "old", { key: "k" });
    const room = await openRoom({ history: 1 });
    const ids = new Set();
    room.on("change", () => {
      const own = room.snapshot.messages.find(({ isOwn }) => isOwn);
      if (own) ids.add(own.id);
    });
    room.send("mine", { key: "k" });
    await settled();
    strictEqual(ids.size, 1);
    await room.history();
    server.forget("r");
    server.say("r", "Bob", "after a restart");
    await settled();
    strictEqual(texts(room).length, 4);
    strictEqual(new Set(room.snapshot.messages.map(({ id }) => id)).size, 4);
  });

  test("is sent before its room is left", async () => {
    const other = new ChatClient("ws://chat.example/ws", { WebSocket: server.WebSocket });
    const room = other.room("r");
    const sent = room.send("the last one");
    room.release();
    await time.advance(1);
    other.connect();
    strictEqual((await sent).offset, 1);
    await settled();
    deepStrictEqual(other.rooms, []);
    other.close();
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

  test("take another name", async () => {
    const room = await openRoom();
    server.join("r", { id: "bob", name: "Bob" });
    await settled();
    const changes = [];
    room.on("change", ({ what, event, user, before }) => changes.push([what, event, before?.name, user?.name]));
    server.join("r", { id: "bob", name: "Robert" });
    await settled();
    deepStrictEqual(changes, [["members", "renamed", "Bob", "Robert"]]);
    deepStrictEqual(room.snapshot.members.map(({ name }) => name), ["Ann", "Robert"]);
    strictEqual(room.snapshot.count, 2);
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

  test("who stop typing are a change", async () => {
    const room = await openRoom();
    const changes = [];
    room.on("change", ({ what }) => changes.push(what));
    server.typing("r", "Bob");
    server.say("r", "Bob", "hi");
    await settled();
    deepStrictEqual(changes, ["typists", "typists", "message"]);
  });

  test("are not known when the room is left", async () => {
    const room = await openRoom();
    server.join("r", "Bob");
    server.typing("r", "Bob");
    server.kick("r", chat.user.id);
    await settled();
    const { members, count, typists, can } = room.snapshot;
    deepStrictEqual({ members, count, typists, can }, { members: [], count: 0, typists: [], can: null });
  });
});

suite("a new token", () => {
  const MEMBER = ["join", "send", "history", "presence"];
  let can;

  /** A room of a client whose token is renewed each minute. */
  async function openWith(capabilities, history) {
    can = capabilities;
    server = new TestServer({ expiresInMs: 60_000, can: ({ id }) => (id === "ann" ? can : MEMBER) });
    server.join("r", { id: "bob", name: "Bob" });
    for (const message of ["one", "two", "three"]) server.say("r", "bob", message);
    let tokens = 0;
    const token = async () => `ann#${(tokens += 1)}`;
    chat = new ChatClient("ws://chat.example/ws", { WebSocket: server.WebSocket, token });
    chat.connect();
    return openRoom({ history });
  }

  async function renewWith(capabilities) {
    can = capabilities;
    const renewals = () => server.received.filter(({ type }) => type === "hello").length;
    const before = renewals();
    await time.advance(60_000, () => renewals() > before);
    await settled();
  }

  const seen = ({ snapshot: { can: granted, hasMore, members, count } }) => [granted, hasMore, members.map(({ id }) => id), count];

  test("shows what the user may do and see from then on, without another join", async () => {
    const room = await openWith(["join"], 1);
    deepStrictEqual(seen(room), [["join"], false, ["ann"], 1]);
    const changes = [];
    room.on("change", ({ what }) => changes.push(what));
    const events = [];
    chat.on("capabilities", (event) => events.push(event));
    await renewWith([...MEMBER, "moderate"]);
    deepStrictEqual(seen(room), [[...MEMBER, "moderate"], true, ["ann", "bob"], 2]);
    deepStrictEqual([changes, events], [["state", "members"], [{ type: "capabilities", room: "r", can: [...MEMBER, "moderate"] }]]);
    await room.history();
    deepStrictEqual(texts(room), ["one", "two", "three"]);
    server.join("r", { id: "cid", name: "Cid" });
    await settled();
    strictEqual(room.snapshot.count, 3);
    // The same ones by the next token are no change.
    await renewWith([...MEMBER, "moderate"]);
    strictEqual(events.length, 1);
    await renewWith(["join", "send"]);
    deepStrictEqual(seen(room), [["join", "send"], false, ["ann"], 1]);
    await room.send("hi");
    strictEqual(server.received.filter(({ type }) => type === "join").length, 1);
  });

  test("is given to the server at once by renew()", async () => {
    const room = await openWith(["join"], 0);
    can = ["join", "send"];
    chat.renew();
    await time.advance(0);
    deepStrictEqual(room.snapshot.can, ["join", "send"]);
    const hellos = () => server.received.filter(({ type }) => type === "hello").map(({ token }) => token);
    deepStrictEqual(hellos(), ["ann#1", "ann#2"]);
    // From then on it is renewed in its time.
    await time.advance(47_000);
    strictEqual(hellos().length, 2);
    await time.advance(13_000);
    strictEqual(hellos().length, 3);
    // The next connection has another one by itself.
    server.drop(1006);
    chat.renew();
    await time.advance(0);
    strictEqual(hellos().length, 3);
    await time.advance(500);
    strictEqual(hellos().length, 4);
  });

  test("that renew() asks for is none that was asked for before", async () => {
    server = new TestServer({ can: () => can, userOf: (token) => ({ id: token.split("#")[0] }) });
    can = ["join"];
    const given = [];
    const token = () => new Promise((give) => given.push(() => give(`ann#${given.length}`)));
    chat = new ChatClient("ws://chat.example/ws", { WebSocket: server.WebSocket, token });
    chat.connect();
    await settled();
    // The token of the connection is under way.
    chat.renew();
    given[0]();
    await time.advance(0);
    strictEqual(given.length, 2);
    // That of the renewal is, too.
    chat.renew();
    given[1]();
    await time.advance(0);
    strictEqual(given.length, 3);
    given[2]();
    await time.advance(0);
    strictEqual(given.length, 3);
    const hellos = server.received.filter(({ type }) => type === "hello");
    deepStrictEqual(new Set(hellos.map(({ token }) => token)).size, 3);
  });

  test("brings older messages to who may read them at last, also by another connection", async () => {
    const room = await openWith(["join"], 1);
    can = MEMBER;
    server.drop(1006);
    await time.advance(1_000);
    deepStrictEqual(seen(room), [MEMBER, true, ["ann", "bob"], 2]);
    await room.history();
    deepStrictEqual(texts(room), ["one", "two", "three"]);
  });

  test("brings older messages to another person who may read them at last", async () => {
    let name = "ann";
    server = new TestServer({ expiresInMs: 60_000, can: () => can });
    server.say("r", "bob", "one");
    can = MEMBER;
    let tokens = 0;
    chat = new ChatClient("ws://chat.example/ws", { WebSocket: server.WebSocket, token: async () => `${name}#${(tokens += 1)}` });
    chat.connect();
    const room = await openRoom({ history: 1 });
    [name, can] = ["cid", ["join"]];
    server.drop(1006);
    await time.advance(1_000);
    deepStrictEqual([room.snapshot.hasMore, texts(room)], [false, []]);
    await renewWith(MEMBER);
    strictEqual(room.snapshot.hasMore, true);
    await room.history();
    deepStrictEqual(texts(room), ["one"]);
  });

  test("asks again for members who could not be listed", async () => {
    const room = await openWith(["join"], 0);
    server.refuse("members", "rate_limited");
    await renewWith(MEMBER);
    strictEqual(room.snapshot.count, 1);
    server.join("r", { id: "fay", name: "Fay" });
    await settled();
    strictEqual(room.snapshot.count, 3);
  });

  test("shows no older messages where the room has none", async () => {
    const room = await openWith(MEMBER, 2);
    await room.history();
    strictEqual(room.snapshot.hasMore, false);
    // The room keeps 256 of them.
    for (let n = 0; n < 300; n += 1) server.say("many", "bob", `m${n}`);
    const many = chat.room("many", { history: 256 });
    await settled();
    strictEqual(many.snapshot.hasMore, false);
    await renewWith([...MEMBER, "moderate"]);
    strictEqual(many.snapshot.hasMore, false);
    strictEqual(room.snapshot.hasMore, false);
    await renewWith(["join"]);
    server.forget("r");
    server.say("r", "bob", "of another sequence");
    await settled();
    await renewWith(MEMBER);
    strictEqual(room.snapshot.hasMore, false);
  });

  test("lets the user show that it is typing", async () => {
    const room = await openWith(["join"], 0);
    const typing = () => server.received.filter(({ type }) => type === "typing").length;
    room.typing(true);
    await settled();
    strictEqual(typing(), 0);
    await renewWith(["join", "send"]);
    room.typing(true);
    await settled();
    strictEqual(typing(), 1);
  });
});

suite("a room is left", () => {
  test("by a kick, and joined again when the application says so", async () => {
    server.say("r", "Bob", "hi");
    const room = await openRoom();
    server.kick("r", chat.user.id, "Calm down.");
    await settled();
    const { state, error } = room.snapshot;
    deepStrictEqual([state, error.code, error.message], ["left", "kicked", "Calm down."]);
    const second = chat.room("r");
    await settled();
    strictEqual(second.snapshot, room.snapshot);
    strictEqual(room.snapshot.state, "left");

    const joined = room.join();
    deepStrictEqual([room.snapshot.state, room.snapshot.error], ["joining", null]);
    strictEqual((await joined).room, "r");
    deepStrictEqual([room.snapshot.state, second.snapshot.state], ["joined", "joined"]);
    deepStrictEqual(texts(room), ["hi"]);
    await room.join();
    deepStrictEqual(texts(room), ["hi"]);
  });

  test("and a message that failed for it is sent after the next join", async () => {
    const room = await openRoom();
    server.kick("r", chat.user.id);
    await settled();
    const { key } = room.send("late");
    await settled();
    deepStrictEqual(states(room), ["late failed"]);
    room.join();
    await room.resend(key);
    await settled();
    deepStrictEqual(states(room), ["late received"]);
  });

  test("and a released handle does not join it", async () => {
    const room = await openRoom();
    room.release();
    strictEqual(await room.join().catch(({ code }) => code), "not_in_room");
    await time.advance(1);
    deepStrictEqual(chat.rooms, []);
  });

  test("by a ban, which a join says again", async () => {
    const room = await openRoom();
    server.ban("r", chat.user.id, { seconds: 60, message: "Spam." });
    await settled();
    const { code, until, reason } = await room.join().catch((error) => error);
    deepStrictEqual({ code, until, reason }, { code: "banned", until: 60_000, reason: "Spam." });
    strictEqual(room.snapshot.error.code, "banned");
  });

  test("by a join that is refused", async () => {
    server.refuse("join", "forbidden");
    const room = await openRoom();
    deepStrictEqual([room.snapshot.state, room.snapshot.error.code], ["left", "forbidden"]);
  });

  test("by the end of the client, until it connects again", async () => {
    const room = await openRoom();
    const early = chat.room("s");
    chat.close();
    const late = chat.room("t");
    await settled();
    for (const { snapshot } of [room, early, late]) {
      deepStrictEqual([snapshot.state, snapshot.error.code], ["left", "closed"]);
    }
    chat.connect();
    deepStrictEqual([room.snapshot.state, early.snapshot.state], ["joining", "joining"]);
    await time.advance(1_000);
    deepStrictEqual([room.snapshot.state, early.snapshot.state], ["joined", "joined"]);
  });

  test("by the end of the client, and a room taken since then is joined by the next connection", async () => {
    chat.close();
    await settled();
    const room = chat.room("r");
    chat.connect();
    const seen = new Set();
    room.on("change", () => seen.add(room.snapshot.state));
    await settled();
    deepStrictEqual([...seen], ["joined"]);
  });

  test("by the end of the client before the join was answered, and takes messages for the next one", async () => {
    const room = chat.room("r");
    chat.close();
    chat.connect();
    strictEqual(room.snapshot.state, "joining");
    const sent = room.send("early");
    strictEqual((await sent).offset, 1);
    await settled();
    deepStrictEqual([room.snapshot.state, states(room)], ["joined", ["early received"]]);
  });

  test("by a kick or a ban without the moderator's words, in the second person", async () => {
    const room = await openRoom();
    server.kick("r", chat.user.id);
    await settled();
    strictEqual(room.snapshot.error.message, "You were kicked.");
    await room.join();
    server.ban("r", chat.user.id);
    await settled();
    strictEqual(room.snapshot.error.message, "You were banned.");
    strictEqual(room.snapshot.error.reason, undefined);
  });

  test("by a kick, and a join without a connection is made by the next one", async () => {
    const room = await openRoom();
    server.kick("r", chat.user.id);
    await settled();
    chat.close();
    room.join();
    chat.connect();
    await settled();
    strictEqual(room.snapshot.state, "joined");
  });

  test("by a kick, which the next connection does not change", async () => {
    const room = await openRoom();
    server.kick("r", chat.user.id);
    await settled();
    chat.close();
    chat.connect();
    await settled();
    deepStrictEqual([room.snapshot.state, room.snapshot.error.code], ["left", "kicked"]);
  });

  test("by a ban from the server, which says until when", async () => {
    const room = await openRoom();
    server.goodbye(4003, { reason: "banned", message: "Spam.", until: 60_000 });
    await settled();
    const { code, reason, until } = room.snapshot.error;
    deepStrictEqual({ code, reason, until }, { code: "banned", reason: "Spam.", until: 60_000 });
    strictEqual(chat.status.error, room.snapshot.error);
  });
});

suite("the next user of a client", () => {
  let user;
  let account;

  beforeEach(() => {
    user = "ann";
    account = new ChatClient("ws://chat.example/ws", { WebSocket: server.WebSocket, token: () => user });
    account.connect();
  });
  afterEach(() => account.close());

  async function become(name) {
    user = name;
    account.close();
    account.connect();
    await settled();
  }

  test("has no drafts of the one before", async () => {
    const room = account.room("r");
    await settled();
    server.refuse("send", "forbidden");
    const { key } = room.send("private");
    await settled();
    await become("bob");
    deepStrictEqual(states(room), []);
    strictEqual(await room.resend(key).catch(({ code }) => code), "bad_field");
    strictEqual(server.position("r").offset, 0);
  });

  test("has no drafts of a room that was not shown meanwhile", async () => {
    const room = account.room("r");
    await settled();
    server.refuse("send", "forbidden");
    room.send("private");
    await settled();
    room.release();
    await time.advance(1);
    await become("bob");
    deepStrictEqual(states(account.room("r")), []);
  });

  test("sends nothing that waited", async () => {
    const room = account.room("r");
    await settled();
    account.close();
    user = "bob";
    account.connect();
    const refused = room.send("written by Ann").catch(({ code }) => code);
    await settled();
    strictEqual(await refused, "other_user");
    deepStrictEqual(states(room), []);
  });

  test("has a room of its own", async () => {
    const room = account.room("r", { history: 2 });
    await settled();
    for (const text of ["one", "two", "three"]) room.send(text);
    server.say("r", "bob", "four");
    await settled();
    await become("bob");
    const shown = room.snapshot.messages.map(({ message, isOwn }) => [message, isOwn]);
    deepStrictEqual(shown, [["two", false], ["three", false]]);
    deepStrictEqual(room.snapshot.members.map(({ id }) => id), ["bob"]);
  });
});

test("a user without a token who gets another id keeps messages and drafts", async () => {
  const elsewhere = chat.room("s");
  const room = await openRoom();
  server.refuse("send", "forbidden");
  elsewhere.send("elsewhere");
  await settled();
  elsewhere.release();
  room.send("mine");
  await settled();
  server.refuse("send", "forbidden");
  const { key } = room.send("draft");
  await settled();
  const { id } = chat.user;
  server.refuse("hello", "unauthorized");
  server.drop();
  await time.advance(1_000);
  ok(chat.user.id !== id);
  deepStrictEqual(states(room), ["mine received", "draft failed"]);
  ok(room.snapshot.messages.every(({ isOwn }) => isOwn));
  await room.resend(key);
  await settled();
  deepStrictEqual(states(room), ["mine received", "draft received"]);
  deepStrictEqual(chat.room("s").snapshot.messages.map(({ user }) => user.id), [chat.user.id]);
});

test("the name of a room is a text", () => {
  throws(() => chat.room(undefined), TypeError);
});

test("a snapshot is the same until something changes", async () => {
  const room = await openRoom();
  const { snapshot } = room;
  strictEqual(room.snapshot, snapshot);
  server.say("r", "Bob", "hi");
  await settled();
  ok(room.snapshot !== snapshot);
});
