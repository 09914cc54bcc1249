// Runs chat-core/tests/vectors/*.json, which describe what a client does in any language, with the
// module: `npm test` in chat-server/web, or `node --test` with this file. No browser, no server.

import { suite, test } from "node:test";

import { Player } from "./player.js";
import { casesOf, files, stepsOf } from "./vectors.js";

for (const { name, vectors } of files) {
  suite(name, () => {
    for (const vector of vectors) {
      test(vector.name, async () => {
        for (const bindings of casesOf(vector)) await Player.play(stepsOf(vector), bindings, vector.plays);
      });
    }
  });
}
