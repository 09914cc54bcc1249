// The vectors of chat-core/tests/vectors, whose README.md describes the format.

import { readFileSync, readdirSync } from "node:fs";
import { basename } from "node:path";

const DIRECTORY = new URL("../../../chat-core/tests/vectors/", import.meta.url);
const SETUPS = "setups.json";

const setups = read(SETUPS);

/** The files, as `{name, vectors}`. */
export const files = readdirSync(DIRECTORY)
  .filter((name) => name.endsWith(".json") && name !== SETUPS)
  .map((name) => ({ name: basename(name, ".json"), vectors: read(name) }));

function read(file) {
  return JSON.parse(readFileSync(new URL(file, DIRECTORY), "utf8"));
}

/** The steps of a setup, which may begin with another one, and then those of the vector. */
export function stepsOf({ setup, steps }) {
  if (setup === undefined) return steps;
  if (!setups[setup]) throw new Error(`no setup "${setup}"`);
  return [...stepsOf(setups[setup]), ...steps];
}

/** A vector with `each` is played once for each value, under a name. */
export function casesOf({ each = { once: [true] } }) {
  const [[name, values]] = Object.entries(each);
  return values.map((value) => ({ [name]: value }));
}
