// A program without a DOM: each option may be undefined, and each member that may be absent is checked.

import { ChatClient, ChatError, type GoodbyeReason, type LeftReason, type Position } from "roomcast";
import { TestServer } from "roomcast/testing";

const { NAME: name, TOKEN: token } = process.env;
const server = new TestServer({
  expiresInMs: undefined,
  can: undefined,
  userOf: (token) => (token === "none" ? null : { id: token }),
  history: undefined,
});
server.refuse("send", "rate_limited", { retryAfterMs: undefined, user: name, room: "general" });
server.banUser("bob", { seconds: undefined });
server.unbanUser("bob");
server.push({ type: "presence", room: "general", event: "count", count: 500 }, { user: undefined });
console.log(server.faults.length, server.silentUsers.size);
// @ts-expect-error there is no such type of a request.
server.refuse("joinn", "forbidden");
// @ts-expect-error no server refuses with this code.
server.refuse("join", "timeout");
// @ts-expect-error the words of a ban are its `message` there.
server.banUser("bob", { reason: "Spam." });
// @ts-expect-error a room without history has no position.
const after: Position = server.position("general");
console.log(after.offset);
const { OPEN } = server.WebSocket;
const socket = new server.WebSocket("ws://chat.example/ws");
socket.addEventListener("open", () => console.log(socket.readyState === OPEN, socket.OPEN));
server.expireGrace();
await server.settled();
const chat = new ChatClient("ws://chat.example/ws", { name, token, WebSocket: server.WebSocket, debug: undefined });

// The compiler finds a reason without words.
const LEFT: Record<LeftReason, string> = { kicked: "kicked", banned: "banned", forbidden: "not allowed" };
const GOODBYES: Record<GoodbyeReason, string> = {
  shutdown: "restart",
  rebalance: "move",
  disconnected: "end",
  kicked: "end",
  banned: "ban",
  token_expired: "expired",
};
chat.on("left", ({ reason, until }) => console.log(reason && LEFT[reason], until));
chat.on("goodbye", ({ reason }) => console.log(GOODBYES[reason]));
chat.on("message", ({ epoch, offset }) => {
  if (epoch !== undefined && offset !== undefined) chat.join("other", { since: { epoch, offset } });
});
chat.addEventListener("message", ({ detail }) => console.log(detail.message), { once: true });
chat.addEventListener("invented", () => {});
// A handler names members that only some kinds of a detail have; the kind says which are there.
chat.on("state", ({ state, retryInMs, error }) => {
  if (state === "waiting") console.log(retryInMs.toFixed());
  if (state === "closed") console.log(error.code);
  // @ts-expect-error there may be none.
  console.log(error.code);
});
chat.on("presence", ({ event, user, count }) => console.log(event === "count" ? count.toFixed() : user.name));
// @ts-expect-error no state has this.
chat.on("state", ({ invented }) => console.log(invented));

const room = chat.room("general", { history: undefined });
room.on("change", () => console.log(room.snapshot.messages.map(({ id }) => id)), { signal: undefined });
await room.join().catch((error: ChatError) => console.log(error.until));
room.on("change", ({ what, message, count }) => console.log(what === "message" ? message.id : count?.toFixed()));
const banned: Promise<void> = chat.ban("general", "bob", { seconds: undefined, reason: undefined });
const kicked: Promise<void> = room.kick("bob");
await Promise.all([banned, kicked]);
await chat.join("general", { history: undefined });
const saved: Record<string, Position> = {};
await chat.join("general", { since: saved["general"], history: 5 });
server.close();
