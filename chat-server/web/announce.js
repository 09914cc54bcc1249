// The one live region of the page: what a screen reader announces by itself.

import { byId } from "./dom.js";

/** The most texts that are announced one by one; of more, only the number. */
const MOST = 3;
const PAUSE_MS = 700;

let waiting = [];
let timer = null;

/** Announces `text` soon. `kind` names many such texts together. */
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
