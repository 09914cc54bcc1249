import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";

import { ChatClient } from "roomcast";
import { WebSocket } from "ws";

const { CHAT_URL, CHAT_TOKEN, ROOMS = "general", MODERATORS = "", POSITIONS = "positions.json" } = process.env;
const moderators = MODERATORS.split(",");

/** By room: up to where its messages are handled. */
const positions = existsSync(POSITIONS) ? JSON.parse(readFileSync(POSITIONS, "utf8")) : {};

const chat = new ChatClient(CHAT_URL, { name: "Bot", token: CHAT_TOKEN, WebSocket });

const commands = {
  echo: (room, words) => words.join(" "),
  async who(room) {
    const { members, count } = await chat.members(room);
    return `${count}: ${members.map(({ id, name }) => `${name} (${id})`).join(", ")}`;
  },
  async kick(room, [user, ...reason]) {
    if (!user) return "Usage: !kick id [reason]";
    if (!(await isMember(room, user))) return `${user} is not here. !who lists the ids.`;
    await chat.kick(room, user, reason.join(" ") || undefined);
    return "Done.";
  },
  async ban(room, [user, seconds, ...reason]) {
    // A ban without a number of seconds would have no end.
    if (!/^[1-9]\d*$/.test(seconds)) return "Usage: !ban id seconds [reason]";
    if (!(await isMember(room, user))) return `${user} is not here. !who lists the ids.`;
    await chat.ban(room, user, { seconds: Number(seconds), reason: reason.join(" ") || undefined });
    return "Done.";
  },
};

async function isMember(room, user) {
  const { members, count } = await chat.members(room);
  // The server lists so many at most.
  return members.length < count || members.some(({ id }) => id === user);
}

const forModerators = new Set(["kick", "ban"]);

async function handle({ room, user, message, offset }, epoch) {
  const [name, ...words] = message.slice(1).split(" ");
  if (user.id !== chat.user?.id && message.startsWith("!") && Object.hasOwn(commands, name)) {
    const isAllowed = moderators.includes(user.id) || !forModerators.has(name);
    const answering = isAllowed ? commands[name](room, words) : "That is for moderators.";
    const answer = await Promise.resolve(answering).catch(({ code }) => `That failed: ${code}.`);
    // The key is the same if the bot starts again before it has stored that it has answered.
    const key = `answer-${epoch}-${offset}`;
    await chat.send(room, answer, { key }).catch(({ code }) => console.error("not answered:", room, code));
  }
  // What a closed client could not answer is handled by the next start.
  if (chat.state !== "closed" && offset !== undefined) store(room, { epoch, offset });
}

function store(room, position) {
  positions[room] = position;
  writeFileSync(`${POSITIONS}.new`, JSON.stringify(positions));
  renameSync(`${POSITIONS}.new`, POSITIONS);
}

/** By room: the sequence of its messages. */
const epochs = {};
/** One message after the other. */
let handling = Promise.resolve();
let isStopping = false;

chat.on("joined", ({ room, epoch, offset }) => {
  epochs[room] = epoch;
  if (!positions[room] && offset !== undefined) store(room, { epoch, offset });
});
chat.on("gap", ({ room, epoch }) => {
  epochs[room] = epoch;
  console.error("messages are lost:", room);
});
chat.on("message", (message) => {
  const epoch = (epochs[message.room] = message.epoch ?? epochs[message.room]);
  handling = handling.then(() => isStopping || handle(message, epoch));
});

// The client does not join these rooms again by itself.
chat.on("left", ({ room, reason, until }) => onLeft(room, { code: reason, until }));
chat.on("refused", ({ room, error }) => onLeft(room, error));

function enter(room) {
  chat.join(room, { since: positions[room] }).catch((error) => onLeft(room, error));
}

function onLeft(room, { code = "removed", until = Date.now() + 60_000 }) {
  console.error("left:", room, code);
  if (chat.state !== "closed") setTimeout(enter, Math.min(until - Date.now(), 86_400_000), room);
}

chat.on("state", ({ state, reason }) => {
  console.log(state, reason ?? "");
  // A ban of the user, no token, or a malformed CHAT_URL: the supervisor of the process starts it again.
  if (state === "closed" && !isStopping) process.exit(1);
});

async function stop() {
  isStopping = true;
  // The command in work ends, unless that takes too long.
  await Promise.race([handling, new Promise((resolve) => setTimeout(resolve, 5_000))]);
  chat.close();
  // The connection closes in this time; a dead one does not hold the process.
  setTimeout(() => process.exit(), 500);
}
process.once("SIGTERM", stop);
process.once("SIGINT", stop);

chat.connect(); // Nothing waits for it: the client connects as soon as it can, and joins the rooms.
for (const room of ROOMS.split(",")) enter(room);
