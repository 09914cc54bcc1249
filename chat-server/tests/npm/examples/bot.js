import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";

import { ChatClient, Unauthorized } from "roomcast";
import { WebSocket } from "ws";

const { CHAT_URL, API_URL, API_KEY, ROOMS = "general", MODERATORS = "", STATE = "bot.json" } = process.env;
const listOf = (text) => text.split(",").map((entry) => entry.trim()).filter(Boolean);
const moderators = listOf(MODERATORS);
const rooms = listOf(ROOMS);
if (rooms.length === 0) throw new Error("ROOMS names no room.");

const CAPABILITIES = ["join", "send", "history", "presence", "moderate"];

/** A token from the server's API. The client asks for one before each connection, and before the last one expires. */
async function token() {
  const answer = await fetch(`${API_URL}/tokens`, {
    method: "POST",
    headers: { authorization: `Bearer ${API_KEY}`, "content-type": "application/json" },
    body: JSON.stringify({ user: "bot", name: "Bot", seconds: 600, rooms: { "*": CAPABILITIES } }),
    signal: AbortSignal.timeout(10_000),
  });
  // Another attempt with this key would not help.
  if (answer.status === 401 || answer.status === 403) throw new Unauthorized(`The API answered ${answer.status}.`);
  if (!answer.ok) throw new Error(`The API answered ${answer.status}.`); // is asked again
  return (await answer.json()).token;
}

/** `positions`: by room, up to where its messages are handled. `resume`: without a token, the user of this bot. */
const { positions, resume } = existsSync(STATE) ? JSON.parse(readFileSync(STATE, "utf8")) : { positions: {} };

const chat = new ChatClient(CHAT_URL, {
  name: "Bot",
  token: API_KEY ? token : undefined,
  resume,
  sendTimeoutMs: 240_000, // less than the five minutes for which servers know a key
  WebSocket,
});

const commands = {
  echo: async (room, words) => words.join(" "),
  async who(room) {
    const { members, count } = await chat.members(room);
    return `${count}: ${members.map(({ id, name }) => `${name} (${id})`).join(", ")}`;
  },
  async kick(room, [user, ...reason], key) {
    if (!user) return "Usage: !kick id [reason]";
    if (!(await isMember(room, user, key))) return `${user} is not here. !who lists the ids.`;
    await chat.kick(room, user, reason.join(" ") || undefined);
    return "Done.";
  },
  async ban(room, [user, seconds, ...reason], key) {
    // A ban without a number of seconds would have no end.
    if (!/^[1-9]\d*$/.test(seconds)) return "Usage: !ban id seconds [reason]";
    if (!(await isMember(room, user, key))) return `${user} is not here. !who lists the ids.`;
    await chat.ban(room, user, { seconds: Number(seconds), reason: reason.join(" ") || undefined });
    return "Done.";
  },
};

/** Keys of answers to commands whose user was found: a kick that is repeated may have removed the user before. */
const found = new Set();

async function isMember(room, user, key) {
  if (found.has(key)) return true;
  const { members, count } = await chat.members(room);
  // The server lists so many at most.
  const isHere = members.length < count || members.some(({ id }) => id === user);
  if (isHere && key) found.add(key);
  return isHere;
}

const forModerators = new Set(["kick", "ban"]);

/** Errors after which a command is carried out again: a kick or a ban may be repeated. */
const REPEATED = new Set(["broker_unavailable", "disconnected", "offline", "timeout"]);

/** Errors that the same answer would have again. */
const FINAL = new Set(["bad_field", "forbidden", "message_too_long", "rejected", "too_large"]);

/** Keys of answers that were received, and whose turn to be handled has not come. */
const answered = new Set();

const isOwn = ({ user }) => user.id === chat.user.id;

async function handle(message) {
  const { room, key, epoch, offset } = message;
  if (isOwn(message)) answered.delete(key);
  else if (!(await answer(message))) return;
  if (offset !== undefined) store(room, { epoch, offset });
}

/** Answers a message that is a command. Returns whether it is done with. */
async function answer({ room, user, message, epoch, offset }) {
  const [name, ...words] = message.slice(1).split(" ");
  // The same if the bot starts again before it has stored that it has answered. A room without history repeats nothing.
  const key = offset === undefined ? undefined : `answer-${epoch}-${offset}`;
  if (!message.startsWith("!") || !Object.hasOwn(commands, name) || answered.has(key)) return true;
  const isAllowed = moderators.includes(user.id) || !forModerators.has(name);
  let text = "That is for moderators.";
  try {
    if (isAllowed) text = await commands[name](room, words, key);
  } catch (error) {
    // Without a position the command would not come again.
    if (key && REPEATED.has(error.code)) return again(room, { code: error.code, until: Date.now() + 1_000 });
    text = `That failed: ${error.code}.`;
  }
  try {
    await chat.send(room, text, { key });
  } catch (error) {
    if (!FINAL.has(error.code)) return again(room, error);
    console.error("not answered:", room, error.code);
  }
  found.delete(key);
  return true;
}

/** What follows the stored position is received again after the next join, or by the next start. */
function again(room, error) {
  console.error("not done:", room, error.code);
  if (chat.rooms.includes(room)) {
    chat.leave(room);
    onLeft(room, error);
  }
  return false;
}

function store(room, position) {
  positions[room] = position;
  // `resume` is a secret.
  writeFileSync(`${STATE}.new`, JSON.stringify({ positions, resume: chat.resume }), { mode: 0o600 });
  renameSync(`${STATE}.new`, STATE);
}

/** One message after the other. */
let handling = Promise.resolve();
/** By room: how often the bot was removed from it. What it had received there before is not handled. */
const exits = {};
let isStopping = false;

chat.on("joined", ({ room, epoch, offset }) => {
  if (!positions[room] && offset !== undefined) store(room, { epoch, offset });
});
chat.on("gap", ({ room }) => console.error("messages are lost:", room));
chat.on("message", (message) => {
  const { room, key } = message;
  const before = exits[room];
  if (isOwn(message)) answered.add(key);
  handling = handling.then(() => isStopping || exits[room] !== before || handle(message));
});

// The client does not join these rooms again by itself.
chat.on("left", ({ room, reason, until }) => onLeft(room, { code: reason, until }));
chat.on("refused", ({ room, error }) => onLeft(room, error));

function enter(room) {
  chat.join(room, { since: positions[room] }).catch((error) => onLeft(room, error));
}

function onLeft(room, { code = "removed", until = Date.now() + 60_000 }) {
  console.error("left:", room, code);
  exits[room] = (exits[room] ?? 0) + 1;
  if (chat.state !== "closed") setTimeout(enter, Math.min(until - Date.now(), 86_400_000), room);
}

chat.on("state", ({ state, reason }) => {
  console.log(state, reason ?? "");
  // A ban of the user, a key that gets no token, or a malformed CHAT_URL: the supervisor of the process starts it again.
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
for (const room of rooms) enter(room);
