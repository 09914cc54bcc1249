// Members of a room who send and receive while their connections, and servers, end: `package.rs`
// ends them, until it sends a line. Prints what a member has not received as it was sent.

import { once } from "node:events";
import { setTimeout as pause } from "node:timers/promises";

import { ChatClient } from "roomcast";
import { WebSocket } from "ws";

const MEMBERS = 6;
const ROOM = "chaos";
/** A pause between two messages of a member, so that none is away for more than the room keeps. */
const PAUSE_MS = 40;
const SETTLED_WITHIN_MS = 20_000;

class Member {
  received = [];
  accepted = [];
  failed = [];
  losses = 0;
  gaps = 0;

  constructor(name, url) {
    this.name = name;
    this.chat = new ChatClient(url, { name, WebSocket, backoffBaseMs: 50, backoffCapMs: 500 });
    this.chat.on("message", (message) => this.received.push(message));
    this.chat.on("gap", () => (this.gaps += 1));
    this.chat.on("state", ({ state }) => (this.losses += state === "waiting"));
  }

  async join() {
    this.chat.connect();
    await this.chat.join(ROOM);
  }

  async sendUntil(stopped) {
    for (let number = 1; !stopped.aborted; number += 1) {
      const text = `${this.name} ${number}`;
      await this.chat.send(ROOM, text).then(() => this.accepted.push(text), ({ code }) => this.failed.push(code));
      await pause(PAUSE_MS);
    }
  }

  /** How often a message has an offset that is not the next one. */
  get jumps() {
    return this.received.filter(({ offset }, index) => index > 0 && offset !== this.received[index - 1].offset + 1).length;
  }

  /** How often a message is not after the sender's message before it. */
  get reordered() {
    const latest = new Map();
    return this.received.filter(({ message }) => {
      const [name, number] = message.split(" ");
      const isLate = Number(number) <= (latest.get(name) ?? 0);
      latest.set(name, Number(number));
      return isLate;
    }).length;
  }

  missing(texts) {
    const received = new Set(this.received.map(({ message }) => message));
    return texts.filter((text) => !received.has(text)).length;
  }

  get doubled() {
    return this.received.length - new Set(this.received.map(({ message }) => message)).size;
  }
}

const urls = process.env.CHAT_URLS.split(",");
const members = Array.from({ length: MEMBERS }, (_, index) => new Member(`m${index}`, urls[index % urls.length]));
await Promise.all(members.map((member) => member.join()));
console.log("joined");

const stopping = new AbortController();
once(process.stdin, "data").then(() => stopping.abort());
await Promise.all(members.map((member) => member.sendUntil(stopping.signal)));

const accepted = members.flatMap((member) => member.accepted);
const sumOf = (count) => members.reduce((sum, member) => sum + count(member), 0);
const lost = () => sumOf((member) => member.missing(accepted));
for (const deadline = Date.now() + SETTLED_WITHIN_MS; lost() > 0 && Date.now() < deadline; ) await pause(50);
const outcome = {
  lost: lost(),
  doubled: sumOf(({ doubled }) => doubled),
  reordered: sumOf(({ reordered }) => reordered),
  jumps: sumOf(({ jumps }) => jumps),
  gaps: sumOf(({ gaps }) => gaps),
  failed: sumOf(({ failed }) => failed.length),
};
console.log(JSON.stringify({ outcome, accepted: accepted.length, losses: sumOf(({ losses }) => losses) }));
process.exit();
