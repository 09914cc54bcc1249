// The one live region of the page: what a screen reader says without being asked.

import { byId } from "./dom.js";

/** As much as is said at once; of more only the number is told. */
const MOST = 3;
const PAUSE_MS = 700;

let waiting = [];
let timer = null;

/** Says `text` soon. `kind` is what many such texts are called together. */
export function announce(text, kind = "notices") {
  waiting.push({ text, kind });
  timer ??= setTimeout(speak, PAUSE_MS);
}

function speak() {
  timer = null;
  const texts = waiting.map(({ text }) => text);
  const { kind } = waiting.at(-1);
  byId("live").textContent =
    texts.length <= MOST ? texts.join(" ") : `${texts.length} ${kind}.`;
  waiting = [];
}
