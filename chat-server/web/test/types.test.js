// The unions of chat-client.d.ts have what the server and the client use.

import { deepStrictEqual } from "node:assert";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

const WEB = new URL("../", import.meta.url);
const SERVER = new URL("../../src/", import.meta.url);
const ERRORS = new URL("../../../chat-core/src/error.rs", import.meta.url);

const read = (url) => readFileSync(url, "utf8");
const types = read(new URL("chat-client.d.ts", WEB));
const connection = read(new URL("chat-connection.js", WEB));
const sanctions = read(new URL("connection/sanctions.rs", SERVER));

/** The members of a union of the types. */
function unionOf(name) {
  const [, members] = new RegExp(`^export type ${name} =([^;]*);`, "m").exec(types);
  return found(members, /"(\w+)"/g);
}

/** What the groups of a pattern match in a text, each once, sorted. */
function found(text, pattern) {
  return sorted([...text.matchAll(pattern)].flatMap(([, ...groups]) => groups));
}

const sorted = (names) => [...new Set(names)].sort();

/** The names of the files of a folder that are of the client, and not of the server for tests. */
const modules = readdirSync(WEB).filter((file) => /^chat-(?!testing).*\.js$/.test(file));

test("the codes of the server", () => {
  deepStrictEqual(unionOf("ServerErrorCode"), found(read(ERRORS), /Self::\w+ => "(\w+)"/g));
});

test("the codes of the client", () => {
  const text = modules.map((file) => read(new URL(file, WEB))).join("\n");
  const made = found(text, /new ChatError\(\s*"(\w+)"/g);
  const ends = found(connection, /: \["\w+", "(\w+)"\]/g);
  // A room that the user was removed from has the reason as the code of its error.
  const all = sorted([...made, ...ends, ...unionOf("LeftReason")]);
  const ofServer = new Set(unionOf("ServerErrorCode"));
  deepStrictEqual(unionOf("ClientErrorCode"), all.filter((code) => !ofServer.has(code)));
});

test("who ends a client", () => {
  const lines = connection.split("\n").filter((line) => /\b(by|refusedBy|ENDED_BY)\b/.test(line)).join("\n");
  deepStrictEqual(unionOf("EndedBy"), sorted([...found(lines, /[?:] "(\w+)"/g), ...found(lines, /\["(\w+)"/g)]));
});

test("why a client leaves a room", () => {
  deepStrictEqual(unionOf("LeftReason"), found(sanctions, /Self::\w+ => "(\w+)"/g));
});

test("why a server says goodbye", () => {
  const files = readdirSync(SERVER, { recursive: true }).filter((file) => file.endsWith(".rs"));
  const texts = new Map(files.map((file) => [file, read(new URL(file, SERVER))]));
  const all = [...texts.values()].join("\n");
  const said = found(all, /(?:send_goodbye\(&?\w+|Goodbye::new\()[, ]*"(\w+)"/g);
  // Two functions take the reason from elsewhere: one from its callers, the other from a sanction.
  const taking = files.filter((file) => /Goodbye::new\((?!")/.test(texts.get(file)));
  deepStrictEqual(taking.sort(), ["connection/sanctions.rs", "drain.rs"]);
  const [, cause] = /SanctionKind::Kick => Cause::(\w+)\.as_str/.exec(sanctions);
  const ofKicks = found(texts.get("cause.rs"), new RegExp(`Self::${cause} => "(\\w+)"`, "g"));
  const ofBans = found(sanctions, /Self::Ban => "(\w+)"/g);
  // What earlier servers said.
  const former = ["kicked"];
  deepStrictEqual(unionOf("GoodbyeReason"), sorted([...said, ...ofKicks, ...ofBans, ...former]));
});
