// The server for tests: it plays the server's side of the vectors, and its frames have the form of
// those of a real server.

import { deepStrictEqual, match, ok, rejects, strictEqual, throws } from "node:assert";
import { readFileSync } from "node:fs";
import { afterEach, mock, suite, test } from "node:test";

import { ChatClient } from "../chat-client.js";
import { TestServer } from "../chat-testing.js";
import { settled } from "./fakes.js";
import { Player } from "./player.js";
import { ServerPlayer } from "./server-player.js";
import { casesOf, files, stepsOf } from "./vectors.js";

const PROTOCOL = new URL("../../../docs/protocol.md", import.meta.url);
const TYPES = new URL("../chat-client.d.ts", import.meta.url);
const CLOSE_CODES = new URL("../../../chat-core/src/close.rs", import.meta.url);

/** Vectors in which the server does what the `TestServer` does not do, by the reason. */
const OTHERS = {
  "answers wrongly, or sends what a server never sends": [
    "welcome_without_an_id_is_ignored",
    "hello_with_an_answer_of_another_type_ends_the_connection",
    "join_with_an_answer_of_another_type_is_asked_again",
    "send_with_an_answer_of_another_type_is_sent_again",
    "other_request_with_an_answer_of_another_type_fails",
    "joined_that_answers_nothing_is_ignored",
    "recovered_with_a_hole_within_is_not_believed",
    "recovered_with_a_hole_before_is_not_believed",
    "recovered_with_a_hole_behind_is_not_believed",
    "recovered_without_the_messages_is_not_believed",
    "recovered_in_another_epoch_is_not_believed",
    "recovered_at_an_earlier_position_is_not_believed",
    "overlap_is_skipped",
    "message_that_lacks_a_field_is_ignored",
    "message_with_a_field_of_another_type_is_ignored",
    "repeats_are_dropped",
    "first_message_of_the_known_epoch_is_the_next",
  ],
  "sends frames, fields or events of a later version": [
    "invented_type_takes_its_offset",
    "invented_type_at_a_known_offset_is_a_repeat",
    "invented_type_behind_a_hole_is_a_hole",
    "invented_type_may_be_the_first_of_a_sequence",
    "invented_type_counts_in_an_answer",
    "invented_type_without_an_offset_is_no_part_of_an_answer",
    "invented_type_moves_the_position_of_the_next_join",
    "invented_type_without_an_offset_is_ignored",
    "invented_type_of_another_room_is_ignored",
    "invented_type_is_left_out_of_a_page_of_history",
    "invented_type_may_use_known_names_for_other_fields",
    "unknown_type_is_ignored",
    "unknown_fields_are_skipped",
    "unknown_presence_event_is_ignored",
  ],
  "sends `null` for absent fields": ["null_counts_as_absent"],
  "sends frames of a room that the client has left, or in another order": [
    "gap_of_another_room_is_dropped",
    "messages_of_other_rooms_are_dropped",
    "news_of_other_rooms_are_dropped",
    "left_room_is_not_joined_again",
    "room_that_cannot_be_joined_again_is_reported_and_left",
    "kicked_client_does_not_join_again",
    "kick_while_a_room_is_repaired_leaves_it",
    "messages_before_the_answer_to_a_join_are_in_it",
    "hole_is_repaired_by_joining_again",
    "hole_is_asked_about_once",
    "answer_may_end_before_the_frame_behind_the_hole",
    "goodbye_is_not_the_end",
  ],
  "keeps fewer than 256 messages, or loses some": [
    "gap_moves_the_position",
    "gap_is_the_position_at_the_next_join",
    "join_since_a_lost_position_is_a_gap",
    "hole_that_cannot_be_filled_is_a_gap",
    "news_of_a_room_that_is_being_repaired_are_in_the_answer",
    "trimmed_messages_are_a_gap",
    "newest_page_that_overlaps_is_delivered_in_part",
    "empty_page_is_a_gap_up_to_the_answers_position",
    "position_beyond_the_rooms_is_a_gap",
  ],
  "counts the members of a large room": ["presence_is_delivered"],
  "knows users, and tokens, of other servers": [
    "send_of_another_user_has_an_unknown_outcome",
    "send_of_the_same_user_without_resume_is_sent_again",
    "undelivered_of_this_session_is_reported",
    "undelivered_of_another_session_is_dropped",
    "no_more_messages_are_unanswered_than_in_flight_says",
    "token_is_renewed_in_time",
  ],
  "is given no token with other capabilities": [
    "capabilities_of_a_new_token_are_reported",
    "capabilities_while_a_room_is_joined_again_are_in_the_answer",
  ],
  "reports an error that answers no request": ["error_without_an_id_is_reported"],
  "carries out a request in another order than it was sent": [
    "echo_settles_any_send_of_the_queue",
    "message_of_another_user_with_the_same_key_settles_nothing",
  ],
};

suite("the server's side of the vectors", () => {
  const others = new Set(Object.values(OTHERS).flat());
  for (const vector of files.flatMap(({ vectors }) => vectors)) {
    const steps = stepsOf(vector);
    const play = async (bindings) => Player.playWith(new ServerPlayer(steps), steps, bindings);
    test(vector.name, async () => {
      for (const bindings of casesOf(vector)) {
        if (others.has(vector.name)) await rejects(play(bindings), "it is played: take it off the list");
        else await play(bindings);
      }
      others.delete(vector.name);
    });
  }
  test("no other vector is listed", () => deepStrictEqual([...others], []));
});

/** All frames of a server in the vectors and in the description of the protocol, by type. */
function knownFrames() {
  const frames = [];
  const collect = (value) => {
    if (typeof value !== "object" || value === null) return;
    if (typeof value.receive?.type === "string") frames.push(value.receive);
    Object.values(value).forEach(collect);
  };
  for (const { vectors } of files) vectors.map(stepsOf).forEach(collect);
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
  const server = new TestServer({ can: () => ["join", "send", "direct", "history", "presence", "moderate"] });
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
  const types = readFileSync(TYPES, "utf8");
  const isDeclared = (name) => new RegExp(`\\b${name}\\??:`).test(types);
  const sent = await sentFrames();
  for (const frame of sent) {
    const examples = known.get(frame.type) ?? [];
    ok(examples.length > 0, `no server sends ${frame.type}`);
    const allowed = new Set(examples.flatMap((example) => Object.keys(example)));
    const foreign = Object.keys(frame).filter((name) => !allowed.has(name) && !isDeclared(name));
    ok(foreign.length === 0, `${frame.type} has ${foreign}`);
    const needed = [...allowed].filter((name) => examples.every((example) => name in example));
    const missing = needed.filter((name) => !(name in frame));
    ok(missing.length === 0, `${frame.type} lacks ${missing}: ${JSON.stringify(frame)}`);
  }
  const kinds = new Set(sent.map(({ type }) => type));
  for (const type of ["welcome", "joined", "left", "ok", "message", "presence", "typing", "direct", "gap", "goodbye", "members", "history", "pong", "error"]) {
    ok(kinds.has(type), `${type} was not sent`);
  }
});

function newClient(server, options) {
  const chat = new ChatClient("ws://chat.example/ws", { WebSocket: server.WebSocket, name: "Ann", ...options });
  chat.connect();
  return chat;
}

test("a ban has an end, and refuses joins until then", async () => {
  const server = new TestServer();
  const chat = newClient(server);
  await chat.join("r");
  const left = [];
  chat.on("left", (detail) => left.push(detail));
  const begin = Date.now();
  server.ban("r", chat.user.id, { seconds: 60, message: "Spam." });
  await settled();
  deepStrictEqual(chat.rooms, []);
  deepStrictEqual(left.map(({ reason, message, until }) => [reason, message, until >= begin + 60_000]), [
    ["banned", "Spam.", true],
  ]);
  const isBan = ({ code, until, reason }) => code === "banned" && until >= begin + 60_000 && reason === "Spam.";
  await rejects(chat.join("r"), isBan);
  server.unban("r", chat.user.id);
  strictEqual((await chat.join("r")).room, "r");
  server.ban("r", chat.user.id);
  await settled();
  await rejects(chat.join("r"), ({ code, until }) => code === "banned" && until === undefined);
  server.goodbye(4003, { reason: "banned", message: "Spam.", until: 1_800_000_000_000 });
  await settled();
  const { by, message, until } = chat.status;
  deepStrictEqual({ by, message, until }, { by: "ban", message: "Spam.", until: 1_800_000_000_000 });
});

test("capabilities and older messages are in joined, and in the room", async () => {
  const can = (user, room) => (room === "news" ? ["join", "history"] : ["join", "send", "moderate"]);
  const server = new TestServer({ can });
  for (const message of ["one", "two"]) server.say("news", "Bob", message);
  const chat = newClient(server);
  const room = chat.room("news", { history: 1 });
  await settled();
  const { can: granted, hasMore } = room.snapshot;
  deepStrictEqual({ granted, hasMore }, { granted: ["join", "history"], hasMore: true });
  await rejects(room.send("hi"), { code: "forbidden" });
  await rejects(room.kick("bob"), { code: "forbidden" });
  strictEqual((await chat.join("general", { history: 1 })).more, false);
  await chat.kick("general", "bob");
  chat.close();
});

test("a test reads the messages and the members of a room", async () => {
  const server = newServer();
  const chat = newClient(server);
  await chat.join("r");
  server.join("r", { id: "bob", name: "Bob" });
  await chat.send("r", "hi", { data: { n: 1 } });
  const [message] = server.messages("r");
  deepStrictEqual([message.user.name, message.message, message.data, message.offset], ["Ann", "hi", { n: 1 }, 1]);
  deepStrictEqual(server.members("r").map(({ name }) => name), ["Ann", "Bob"]);
  // They are copies.
  message.data.n = 2;
  server.members("r").pop();
  strictEqual(server.messages("r")[0].data.n, 1);
  strictEqual(server.members("r").length, 2);
  server.leave("r", "bob");
  deepStrictEqual(server.members("r"), [chat.user]);
  deepStrictEqual([server.messages("other"), server.members("other")], [[], []]);
});

test("users are no moderators, unless the test says so", async () => {
  const server = newServer();
  const chat = newClient(server);
  deepStrictEqual((await chat.join("r")).can, ["join", "send", "history", "presence"]);
  strictEqual((await chat.direct("bob", "hi")).delivered, 0);
  for (const request of ["kick", "ban", "unban"]) await rejects(chat[request]("r", "bob"), { code: "forbidden" });
});

test("a new name reaches the other members", async () => {
  const server = new TestServer();
  const chat = newClient(server);
  const seen = [];
  chat.on("presence", ({ event, user }) => seen.push(`${event} ${user.name}`));
  await chat.join("r");
  server.join("r", { id: "u", name: "Bob" });
  server.join("r", { id: "u", name: "Bobby" });
  await settled();
  deepStrictEqual(seen, ["joined Ann", "joined Bob", "renamed Bobby"]);
  chat.close();
});

test("a message without a visible character is refused, unless it has data", async () => {
  const server = new TestServer();
  const chat = newClient(server);
  await chat.join("r");
  for (const blank of ["", " \n", "\u200b"]) {
    await rejects(chat.send("r", blank), { code: "bad_field", message: /visible/ });
    await rejects(chat.direct("bob", blank), { code: "bad_field" });
  }
  strictEqual((await chat.send("r", "", { data: 1 })).offset, 1);
  chat.close();
});

test("a token that has expired is renewed, or ends the client", async () => {
  const server = new TestServer();
  const fixed = newClient(server, { token: "ann" });
  let number = 0;
  const renewed = newClient(server, { token: () => `bob#${(number += 1)}`, backoffBaseMs: 0 });
  await Promise.all([fixed.connect(), renewed.connect()]);
  server.expireToken();
  await settled();
  deepStrictEqual([fixed.status.by, fixed.status.error.code], ["token_expired", "unauthorized"]);
  await rejects(fixed.connect(), { code: "unauthorized" });
  strictEqual(fixed.status.by, "token_refused");
  await renewed.connect();
  deepStrictEqual([renewed.state, renewed.user.id], ["online", "bob"]);
  server.expireToken("bob");
  await settled();
  ok(renewed.state !== "closed");
  renewed.close();
});

const servers = [];

/** A server whose clients end with the test, whatever comes of it. */
function newServer(options) {
  servers.push(new TestServer(options));
  return servers.at(-1);
}

afterEach(() => servers.splice(0).forEach((server) => server.close()));

/** The presence events that a client receives, as texts. */
function presenceOf(chat) {
  const seen = [];
  chat.on("presence", ({ event, user }) => seen.push(`${event} ${user.name}`));
  return seen;
}

suite("a member whose connection ends", () => {
  /** Ann and Bob in a room. */
  async function two() {
    const server = newServer();
    const [ann, bob] = ["Ann", "Bob"].map((token) => newClient(server, { token, backoffBaseMs: 1_000_000 }));
    await ann.join("r");
    await bob.join("r");
    await server.settled();
    return { server, ann, bob, seen: presenceOf(ann), listed: async () => (await ann.members("r")).count };
  }

  test("is a member as before if it returns in time", async () => {
    const { server, bob, seen, listed } = await two();
    server.drop(1006, { user: "Bob" });
    await server.settled();
    deepStrictEqual([bob.state, await listed()], ["waiting", 2]);
    await bob.connect();
    await server.settled();
    server.expireGrace();
    await server.settled();
    deepStrictEqual([seen, bob.rooms, await listed()], [[], ["r"], 2]);
  });

  test("has left when the time is over", async () => {
    const { server, bob, seen, listed } = await two();
    server.drop(1006, { user: "Bob" });
    await server.settled();
    // Ann, who is there, and a lost user of another room stay.
    throws(() => server.expireGrace("Ann"), /Ann is not a user who is lost.*Bob/);
    const cid = newClient(server, { token: "Cid", backoffBaseMs: 1_000_000 });
    await cid.join("other");
    server.drop(1006, { user: "Cid" });
    await server.settled();
    server.expireGrace("Cid");
    await server.settled();
    deepStrictEqual(seen, []);
    server.expireGrace("Bob");
    await server.settled();
    deepStrictEqual([seen, await listed()], [["left Bob"], 1]);
    await bob.connect();
    await server.settled();
    deepStrictEqual(seen, ["left Bob", "joined Bob"]);
  });

  test("leaves at once by close(), unless the line is dead", async () => {
    const { server, bob, seen, listed } = await two();
    bob.close();
    await server.settled();
    deepStrictEqual(seen, ["left Bob"]);
    await bob.connect();
    await server.settled();
    server.isSilent = true;
    bob.close();
    await server.settled();
    server.isSilent = false;
    deepStrictEqual([seen, await listed()], [["left Bob", "joined Bob"], 2]);
  });

  test("is a member as before if it returns under another name", async () => {
    const { server, seen } = await two();
    const cid = newClient(server, { name: "Cid" });
    await cid.join("r");
    await cid.rename("Cidney");
    await server.settled();
    deepStrictEqual(seen, ["joined Cid", "renamed Cidney"]);
  });

  test("leaves at once if the server has removed it", async () => {
    for (const [code, reason] of [[4002, "kicked"], [4003, "banned"]]) {
      const { server, seen } = await two();
      server.goodbye(code, { reason }, "Bob");
      await server.settled();
      deepStrictEqual(seen, ["left Bob"]);
    }
    const { server, seen, listed } = await two();
    server.drop(1006, { user: "Bob" });
    await server.settled();
    server.kick("r", "Bob");
    await server.settled();
    deepStrictEqual([seen, await listed()], [["left Bob"], 1]);
  });

  test("is there with its other connection", async () => {
    const { server, bob, seen } = await two();
    const other = newClient(server, { token: "Bob" });
    await other.join("r");
    bob.close();
    await server.settled();
    deepStrictEqual(seen, []);
  });
});

test("a user receives what the capabilities allow", async () => {
  const grants = { ann: ["join"], bob: ["presence", "join", "history", "send"] };
  const server = newServer({ can: ({ id }) => grants[id] });
  server.say("r", "Cid", "old");
  server.join("r", "Cid");
  const [ann, bob] = ["ann", "bob"].map((token) => newClient(server, { token }));
  const seen = [presenceOf(ann), presenceOf(bob)];
  const [few, all] = [ann.room("r", { history: 10 }), bob.room("r", { history: 10 })];
  await server.settled();
  const shown = ({ snapshot: { messages, members, count, hasMore, can } }) => [messages.length, members.length, count, hasMore, can];
  deepStrictEqual(shown(few), [0, 1, 1, false, ["join"]]);
  deepStrictEqual(shown(all), [1, 3, 3, false, ["join", "send", "history", "presence"]]);
  server.leave("r", "Cid");
  server.say("r", "bob", "new");
  await server.settled();
  deepStrictEqual(seen, [[], ["joined bob", "left Cid"]]);
  deepStrictEqual(few.snapshot.messages.map(({ message }) => message), ["new"]);
  // They apply after a reconnect as well.
  server.isReachable = false;
  server.drop(1006, { user: "ann" });
  server.say("r", "bob", "missed");
  await server.settled();
  server.isReachable = true;
  await ann.connect();
  await server.settled();
  deepStrictEqual(few.snapshot.messages.map(({ message }) => message), ["new"]);
});

test("a new token of a user may put it out of rooms", async () => {
  let can = ["join", "presence"];
  const server = newServer({ can: () => can, expiresInMs: 10_000 });
  const chat = newClient(server, { token: "ann" });
  await chat.join("r");
  const left = [];
  chat.on("left", ({ room, reason }) => left.push([room, reason]));
  const socket = new server.WebSocket("ws://chat.example/ws");
  const answers = [];
  socket.onmessage = ({ data }) => answers.push(JSON.parse(data));
  await server.settled();
  const send = async (frame) => {
    socket.send(JSON.stringify(frame));
    await server.settled();
  };
  await send({ type: "hello", token: "bob" });
  await send({ type: "join", room: "r" });
  can = [];
  await send({ type: "hello", token: "bob" });
  // As from a real server, before `welcome`.
  deepStrictEqual(answers.at(-2), { type: "left", room: "r", reason: "forbidden" });
  deepStrictEqual(left, []);
});

suite("inputs that a real server refuses", () => {
  const nested = (depth) => (depth === 0 ? 1 : [nested(depth - 1)]);
  const REFUSED = [
    ["bad_field", "a NUL in a text", (chat) => chat.send("r", "a\0b")],
    ["bad_field", "a NUL in data", (chat) => chat.send("r", "a", { data: ["\0"] })],
    ["bad_field", "data that is too deep", (chat) => chat.send("r", "a", { data: nested(61) })],
    ["bad_field", "data that makes the frame too deep", (chat) => chat.send("r", "a", { data: nested(80) })],
    ["bad_field", "a direct message that is too deep", (chat) => chat.direct("bob", "a", { data: nested(60) })],
    ["bad_field", "a long key", (chat) => chat.send("r", "a", { key: "k".repeat(500) })],
    ["room_name_invalid", "a blank name", (chat) => chat.join(" ")],
    ["room_name_invalid", "a name that reorders", (chat) => chat.join("a\u202e")],
    ["bad_field", "a negative number", (chat) => chat.join("s", { history: -1 })],
    ["bad_field", "a fraction", (chat) => chat.join("s", { history: 1.5 })],
    ["bad_field", "a negative limit", (chat) => chat.history("r", { limit: -1 })],
    ["bad_field", "two bounds", (chat) => chat.history("r", { before: 3, after: 1 })],
    ["bad_field", "a ban without a time", (chat) => chat.ban("r", "bob", { seconds: 0 })],
    ["bad_field", "a ban until a time that is no number", (chat) => chat.ban("r", "bob", { seconds: NaN })],
    ["bad_field", "a ban of a fraction", (chat) => chat.ban("r", "bob", { seconds: 1.5 })],
    ["bad_field", "a long reason", (chat) => chat.kick("r", "bob", "x".repeat(513))],
    ["bad_field", "a user without a name", (chat) => chat.kick("r", " ")],
  ];
  for (const [code, name, request] of REFUSED) {
    test(name, async () => {
      const server = newServer({ can: () => ["join", "send", "direct", "history", "moderate"] });
      const chat = newClient(server);
      await chat.join("r");
      await rejects(request(chat), { code });
    });
  }

  test("what is just allowed is carried out", async () => {
    const server = newServer();
    const chat = newClient(server);
    await chat.join("r", { history: 300 });
    await chat.send("r", "a", { data: nested(60), key: "k".repeat(126) });
    await chat.send("r", "b");
    await chat.direct("bob", "a", { data: nested(59) });
    strictEqual((await chat.history("r", { limit: 0 })).messages.length, 1);
  });

  test("more rooms than a connection may be in", async () => {
    const server = newServer({ limits: { rooms: 1 } });
    const chat = newClient(server);
    await chat.join("r");
    await rejects(chat.join("s"), { code: "too_many_rooms" });
  });
});

test("a mistake of the test is an error at once, which names what there is", async () => {
  const server = newServer();
  await newClient(server, { token: "ann" }).connect();
  const MISTAKES = [
    [() => new TestServer({ token: "ann" }), /token.*limits, expiresInMs/],
    [() => new TestServer({ userOf: "ann" }), /userOf is a function/],
    [() => new TestServer({ can: ["join"] }), /can is a function/],
    [() => new TestServer({ expiresInMs: -1 }), /expiresInMs/],
    [() => new TestServer({ expiresInMs: "60" }), /expiresInMs/],
    [() => new TestServer({ limits: { messageBytes: 1 } }), /messageBytes.*message_bytes/],
    [() => server.refuse("joinn", "forbidden"), /joinn.*join, leave/],
    [() => server.refuse("join", "timeout"), /timeout.*rate_limited/],
    [() => server.refuse("join", "forbidden", { rooms: "r" }), /rooms.*room/],
    [() => server.loseAnswer("sent"), /sent.*send/],
    [() => server.loseAnswer("send", "r"), /object/],
    [() => server.say("r", "Bob", "hi", { keys: 1 }), /keys.*key/],
    [() => server.direct("ann", "Bob", "hi", { key: "k" }), /key.*data/],
    [() => server.say("r", { name: "Bob" }, "hi"), /user is a name/],
    [() => server.join("r", null), /user is a name/],
    [() => server.drop(400), /400.*1000/],
    [() => server.drop("1001"), /1001/],
    [() => server.drop(1005), /1005.*1006 to/],
    [() => server.typing("r", "Bob", "yes"), /typing/],
    [() => server.typing(" ", "Bob"), /room/],
    [() => server.direct("ann", "Bob", " "), /visible/],
    [() => server.direct({ id: "ann" }, "Bob", "hi"), /"to"/],
    [() => server.expireGrace("ann"), /ann is not a user who is lost in a room/],
    [() => server.goodbye(1001, { reason: "moved" }), /moved.*shutdown/],
    [() => server.drop(1006, "ann"), /object/],
    [() => server.drop(1006, { user: "anne" }), /anne is not a user: known are ann,/],
    [() => server.goodbye(4005, { reason: "disconnected" }), /4005.*4004/],
    [() => server.goodbye(1001), /object/],
    [() => server.goodbye(1001, {}), /reason/],
    [() => server.goodbye(1001, { reason: "shutdown", afterMs: 1 }), /afterMs.*after_ms/],
    [() => server.goodbye(1001, { reason: "shutdown" }, "anne"), /anne/],
    [() => server.push({ type: "typing" }, { user: "anne" }), /anne/],
    [() => server.expireToken("anne"), /anne/],
    [() => server.expireGrace("anne"), /anne/],
    [() => server.ban("r", "ann", 60), /object/],
    [() => server.ban("r", "ann", { until: 1 }), /until.*seconds, message/],
    [() => server.ban("r", "ann", { seconds: 0 }), /from 1 on, not 0/],
    [() => server.banUser("ann", { reason: "Spam." }), /reason.*message/],
    [() => server.banUser("ann", { seconds: "60" }), /whole number/],
    [() => server.leave("r", "Bob"), /no user Bob/],
    [() => server.kick("r", "ann", "Spam.", "kick"), /kick.*kicked/],
    [() => server.kick("r", "ann", { message: "Spam." }), /text/],
  ];
  server.say("r", "Bob", "hi");
  for (const [mistake, message] of MISTAKES) throws(mistake, { name: "TypeError", message }, `${mistake}`);
  strictEqual(server.connections, 1);
  deepStrictEqual(server.faults, []);
});

test("a test may refuse with each code of a server's errors", () => {
  const server = newServer();
  const [, union] = /export type ServerErrorCode =([^;]*);/.exec(readFileSync(TYPES, "utf8"));
  const codes = [...union.matchAll(/"(\w+)"/g)].map(([, code]) => code);
  for (const code of codes) server.refuse("join", code);
  deepStrictEqual(server.faults.map(({ code }) => code), codes);
  ok(codes.length > 15);
});

test("a test may say goodbye with each reason of a server", () => {
  const server = newServer();
  const [, union] = /export type GoodbyeReason =([^;]*);/.exec(readFileSync(TYPES, "utf8"));
  const reasons = [...union.matchAll(/"(\w+)"/g)].map(([, reason]) => reason);
  for (const reason of reasons) server.goodbye(1001, { reason });
  ok(reasons.length > 5);
});

test("with a close code comes what a real server says with it", async () => {
  const rust = readFileSync(CLOSE_CODES, "utf8");
  const byName = (pattern) => new Map([...rust.matchAll(pattern)].map(([, name, value]) => [name, value]));
  const reasons = byName(/Self::(\w+) => "([^"]+)"/g);
  const codes = byName(/Self::(\w+) => (\d{4}),/g);
  ok(codes.size > 10);
  for (const [name, code] of codes) {
    const server = newServer();
    const closed = new Promise((resolve) => (new server.WebSocket("ws://chat.example/ws").onclose = resolve));
    await server.settled();
    server.goodbye(Number(code), { reason: "shutdown" });
    strictEqual((await closed).reason, reasons.get(name), name);
  }
  const server = newServer();
  const chat = newClient(server);
  await chat.connect();
  server.goodbye(1001, { reason: "shutdown" });
  await server.settled();
  deepStrictEqual([chat.status.state, chat.status.reason], ["waiting", "going away"]);
  chat.close();
});

test("a room that cannot continue sends as many of the latest messages as were asked for", async () => {
  const server = newServer();
  for (let number = 1; number <= 300; number += 1) server.say("r", "Bob", `m${number}`);
  const socket = new server.WebSocket("ws://chat.example/ws", ["chat.v1"]);
  const pages = [];
  socket.onmessage = ({ data }) => pages.push(JSON.parse(data).messages?.length);
  await server.settled();
  const since = { epoch: "none", offset: 1 };
  socket.send(JSON.stringify({ type: "hello", name: "Ann" }));
  for (const history of [undefined, 0, 2, 200]) socket.send(JSON.stringify({ type: "join", room: "r", since, history }));
  await server.settled();
  deepStrictEqual(pages.filter((count) => count !== undefined), [50, 0, 2, 200]);
});

test("after a long absence a client has all that the room keeps", async () => {
  const server = newServer();
  const chat = newClient(server, { backoffBaseMs: 1 });
  await chat.join("r");
  const offsets = [];
  chat.on("gap", ({ offset }) => offsets.push(`gap ${offset}`));
  chat.on("message", ({ offset }) => offsets.push(offset));
  server.say("r", "Bob", "first");
  server.isReachable = false;
  server.drop();
  await server.settled();
  for (let number = 0; number < 300; number += 1) server.say("r", "Bob", "missed");
  server.isReachable = true;
  await chat.connect();
  await server.settled();
  deepStrictEqual([offsets.slice(0, 3), offsets.length, offsets.at(-1)], [[1, "gap 45", 46], 258, 301]);
});

test("direct messages need their capability, for the recipient", async () => {
  const can = (user, place) => (place === "@bob" ? ["direct"] : ["join", "send", "moderate", "direct"]);
  const server = newServer({ can: (user, place) => (place === "@cid" ? ["send"] : can(user, place)) });
  const chat = newClient(server, { token: "ann" });
  deepStrictEqual((await chat.join("r")).can, ["join", "send", "moderate"]);
  strictEqual((await chat.direct("bob", "hi")).delivered, 0);
  await rejects(chat.direct("cid", "hi"), { code: "forbidden" });
});

test("a socket has listeners, and the states of a WebSocket as names", async () => {
  const server = newServer();
  const states = { CONNECTING: 0, OPEN: 1, CLOSING: 2, CLOSED: 3 };
  const socket = new server.WebSocket("ws://chat.example/ws", ["chat.v1"]);
  for (const [name, value] of Object.entries(states)) {
    deepStrictEqual([server.WebSocket[name], socket[name]], [value, value], name);
  }
  const seen = [];
  const note = ({ type, code }) => seen.push([type, code, socket.readyState]);
  for (const type of ["open", "message", "close"]) socket.addEventListener(type, note);
  const removed = () => seen.push("removed");
  socket.addEventListener("open", removed);
  socket.removeEventListener("open", removed);
  strictEqual(socket.readyState, socket.CONNECTING);
  await server.settled();
  socket.send(JSON.stringify({ type: "ping" }));
  await server.settled();
  socket.close(1000);
  strictEqual(socket.readyState, socket.CLOSING);
  await server.settled();
  deepStrictEqual(seen, [["open", undefined, 1], ["message", undefined, 1], ["close", 1000, 3]]);
});

suite("all has settled", () => {
  /** Sends on after answers, by a token and handlers that take some turns of the promises. */
  async function chats(server) {
    const token = async () => {
      for (let turn = 0; turn < 20; turn += 1) await null;
      return "ann";
    };
    const chat = newClient(server, { token });
    const room = chat.room("r");
    room.send("one");
    chat.on("message", async ({ message }) => {
      for (let turn = 0; turn < 20; turn += 1) await null;
      if (message.length < 10) room.send(`${message}!`);
    });
    await server.settled();
    deepStrictEqual(room.snapshot.messages.map(({ state }) => state), Array(8).fill("received"));
    server.close();
    await server.settled();
    strictEqual(chat.state, "closed");
  }

  test("without timers", () => chats(newServer()));

  test("while a test has the timers", async () => {
    mock.timers.enable({ apis: ["setTimeout", "setInterval", "setImmediate", "Date"] });
    const { queueMicrotask } = globalThis;
    // The fake timers of Jest stop it, too.
    globalThis.queueMicrotask = () => {};
    try {
      await chats(newServer());
    } finally {
      globalThis.queueMicrotask = queueMicrotask;
      mock.timers.reset();
    }
  });
});

test("a server that is closed closes its clients, and those that connect later", async () => {
  const server = newServer();
  const clients = ["ann", "bob", "cid"].map((token) => newClient(server, { token, backoffBaseMs: 1 }));
  await Promise.all(clients.slice(0, 2).map((chat) => chat.connect()));
  server.drop(1006, { user: "bob" });
  await server.settled();
  server.close();
  await server.settled();
  await rejects(clients[1].connect(), { code: "closed" });
  server.isReachable = false;
  const late = newClient(server);
  await rejects(late.connect(), { code: "closed" });
  deepStrictEqual(
    [...clients, late].map(({ state, status }) => [state, status.by]),
    Array(4).fill(["closed", "server"]),
  );
});

test("a server with users of its own needs a token of each client", async () => {
  const server = newServer({ userOf: (token) => (token === "secret" ? { id: "ann", name: "Ann" } : null) });
  const without = newClient(server);
  await rejects(without.connect(), { code: "unauthorized" });
  strictEqual(without.status.by, "no_token");
  const wrong = newClient(server, { token: "other" });
  await rejects(wrong.connect(), { code: "unauthorized" });
  strictEqual(wrong.status.by, "token_refused");
  const chat = newClient(server, { token: "secret" });
  await chat.connect();
  match(chat.user.color, /^#/);
  strictEqual(chat.resume, undefined);
});

test("a ban from the server lasts by the clock, or until it is lifted", async () => {
  mock.timers.enable({ apis: ["Date"], now: 1_800_000_000_000 });
  try {
    const server = newServer();
    const [ann, bob] = ["ann", "bob"].map((token) => newClient(server, { token }));
    await ann.join("r");
    await bob.join("r");
    const seen = presenceOf(bob);
    server.banUser("ann", { seconds: 60, message: "Spam." });
    await server.settled();
    const banned = { by: "ban", code: 4003, reason: "banned", message: "Spam.", until: 1_800_000_060_000 };
    const { state, error, ...status } = ann.status;
    deepStrictEqual(status, banned);
    await rejects(ann.connect(), { code: "banned", reason: "Spam.", until: banned.until });
    deepStrictEqual(seen, ["left ann"]);
    mock.timers.setTime(banned.until);
    await ann.connect();
    server.banUser("ann");
    await server.settled();
    await rejects(ann.connect(), ({ code, until }) => code === "banned" && until === undefined);
    server.unbanUser("ann");
    await ann.connect();
    strictEqual(bob.state, "online");
  } finally {
    mock.timers.reset();
  }
});

test("a ban of ten years or more has no end", async () => {
  const server = newServer();
  const chat = newClient(server, { token: "ann" });
  const ends = [];
  chat.on("left", ({ until }) => ends.push(until !== undefined));
  for (const seconds of [315_359_999, 315_360_000, 1e12]) {
    await chat.join("r");
    server.ban("r", "ann", { seconds });
    await server.settled();
    server.unban("r", "ann");
  }
  deepStrictEqual(ends, [true, false, false]);
});

test("a message is said as by the HTTP API", async () => {
  const server = newServer({ can: ({ id }) => (id === "Bob" ? [] : ["join", "presence"]) });
  const room = newClient(server, { token: "ann" }).room("r");
  await server.settled();
  server.ban("r", "Bob");
  server.say("r", "Bob", "hi");
  await server.settled();
  const { messages, members } = room.snapshot;
  deepStrictEqual([messages.map(({ user }) => user.id), members.map(({ id }) => id)], [["Bob"], ["ann"]]);
});

test("a user who is made to leave is out of the room", async () => {
  const server = newServer();
  const chat = newClient(server, { token: "ann" });
  const room = chat.room("r");
  await server.settled();
  const left = [];
  chat.on("left", (detail) => left.push(detail));
  server.leave("r", "ann");
  await server.settled();
  deepStrictEqual(left, [{ type: "left", room: "r" }]);
  deepStrictEqual([room.snapshot.state, room.snapshot.error.code], ["left", "not_in_room"]);
  await rejects(room.send("hi"), { code: "not_in_room" });
});

test("rooms without history have no positions", async () => {
  const server = newServer({ history: false });
  const chat = newClient(server);
  const room = chat.room("r");
  const gaps = [];
  chat.on("gap", (gap) => gaps.push(gap));
  await server.settled();
  const { key, ...sent } = await room.send("one");
  deepStrictEqual(sent, { offset: undefined, epoch: undefined });
  await server.settled();
  const [{ epoch, offset }] = room.snapshot.messages;
  deepStrictEqual([epoch, offset], [undefined, undefined]);
  await rejects(chat.history("r"), { code: "history_disabled" });
  await room.history();
  strictEqual(room.snapshot.hasMore, false);
  server.forget("r");
  await server.settled();
  deepStrictEqual(gaps, [{ type: "gap", room: "r" }]);
});

test("any frame can be sent to a room, or to a user", async () => {
  const server = newServer();
  const [ann, bob] = ["ann", "bob"].map((token) => newClient(server, { token }));
  const [inRoom] = [ann.room("r"), bob.room("s")];
  await server.settled();
  const received = [];
  for (const chat of [ann, bob]) {
    chat.on("presence", ({ room, count }) => received.push([chat.user.id, room, count]));
    chat.on("undelivered", ({ to }) => received.push([chat.user.id, to]));
  }
  server.push({ type: "presence", room: "r", event: "count", count: 500 });
  const [{ session }] = await Promise.all([ann, bob].map((chat) => chat.connect()));
  server.push({ type: "undelivered", to: "cid", session }, { user: "ann" });
  await server.settled();
  deepStrictEqual(received, [["ann", "r", 500], ["ann", "cid"]]);
  strictEqual(inRoom.snapshot.count, 500);
});

test("faults are meant for a user or a room, and those that were not met are seen", async () => {
  const server = newServer();
  const [ann, bob] = ["ann", "bob"].map((token) => newClient(server, { token }));
  for (const chat of [ann, bob]) for (const room of ["r", "s"]) await chat.join(room);
  server.refuse("send", "rejected", { user: "bob", room: "s" });
  server.loseAnswer("join", { room: "t" });
  await ann.send("s", "one");
  await bob.send("r", "two");
  await rejects(bob.send("s", "three"), { code: "rejected" });
  deepStrictEqual(server.faults, [{ type: "join", user: undefined, room: "t", code: undefined }]);
});

test("the lines of some users may be silent", async () => {
  const server = newServer();
  const [ann, bob] = ["ann", "bob"].map((token) => newClient(server, { token }));
  const [first, second] = [ann.room("r"), bob.room("r")];
  await server.settled();
  server.silentUsers.add("bob");
  await first.send("one");
  second.send("two");
  await server.settled();
  deepStrictEqual(second.snapshot.messages.map(({ state }) => state), ["sending"]);
  server.silentUsers.clear();
  server.drop();
  await server.settled();
  await bob.connect();
  await server.settled();
  deepStrictEqual(second.snapshot.messages.map(({ message }) => message), ["one", "two"]);
});

test("what a test cannot mean is an error of the test", () => {
  const server = newServer();
  for (const [room, text] of [["", "hi"], ["r", ""], ["r", "x".repeat(40_000)]]) {
    throws(() => server.say(room, "Bob", text), TypeError);
  }
  throws(() => server.kick("r", "Bob"), /no user Bob/);
  server.ban("r", "Bob");
  throws(() => server.join("r", "Bob"), /Bob is banned/);
  server.unban("r", "Bob");
  server.join("r", "Bob");
  server.kick("r", "Bob");
});

test("a key is known for five minutes", () => {
  mock.timers.enable({ apis: ["Date"], now: 0 });
  try {
    const server = newServer();
    const say = () => server.say("r", "Bob", "hi", { key: "k" }).offset;
    deepStrictEqual([say(), say()], [1, 1]);
    mock.timers.setTime(5 * 60_000);
    strictEqual(say(), 2);
  } finally {
    mock.timers.reset();
  }
});

test("an address without a chat server, or another protocol, does not connect", async () => {
  const server = newServer();
  const endOf = (url, protocols) =>
    new Promise((resolve) => {
      const socket = new server.WebSocket(url, protocols);
      socket.onopen = () => resolve(socket.protocol || "none");
      socket.onclose = ({ code }) => resolve(code);
    });
  strictEqual(await endOf("ws://chat.example/wss", ["chat.v1"]), 1006);
  strictEqual(await endOf("ws://chat.example/ws", ["chat.v9"]), 1006);
  strictEqual(await endOf("ws://chat.example/chat/ws", ["chat.v9", "chat.v1"]), "chat.v1");
  strictEqual(await endOf("ws://chat.example/ws"), "none");
});

test("after a goodbye a client connects again as the code says", async () => {
  for (const [code, state] of [[1001, "waiting"], [1013, "waiting"], [4002, "closed"]]) {
    const server = newServer();
    const chat = newClient(server);
    await chat.connect();
    server.goodbye(code, { reason: "disconnected" });
    await server.settled();
    strictEqual(chat.state, state);
    chat.close();
  }
});
