// Runs chat-core/tests/vectors/*.json, which describe what a client does in any language, with the
// module: `npm test` in chat-server/web, or `node --test` with this file. No browser, no server.

import { readFileSync, readdirSync } from "node:fs";
import { basename } from "node:path";
import { suite, test } from "node:test";

import { Player } from "./player.js";

const DIRECTORY = new URL("../../../chat-core/tests/vectors/", import.meta.url);
const SETUPS = "setups.json";

const setups = read(SETUPS);
for (const file of readdirSync(DIRECTORY).filter((name) => name.endsWith(".json") && name !== SETUPS)) {
  suite(basename(file, ".json"), () => {
    for (const vector of read(file)) {
      test(vector.name, async () => {
        for (const bindings of casesOf(vector)) await Player.play(stepsOf(vector), bindings, vector.plays);
      });
    }
  });
}

function read(file) {
  return JSON.parse(readFileSync(new URL(file, DIRECTORY), "utf8"));
}

/** The steps of a setup, which may begin with another one, and then those of the vector. */
function stepsOf({ setup, steps }) {
  if (setup === undefined) return steps;
  if (!setups[setup]) throw new Error(`no setup "${setup}"`);
  return [...stepsOf(setups[setup]), ...steps];
}

/** A vector with `each` is played once for each value, under a name. */
function casesOf({ each = { once: [true] } }) {
  const [[name, values]] = Object.entries(each);
  return values.map((value) => ({ [name]: value }));
}
