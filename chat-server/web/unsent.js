// One's own messages that the room has not seen yet.

import { byId, make } from "./dom.js";
import { failureInWords } from "./words.js";

/** Keys begin with it: no two pages use the same. */
const PREFIX = Array.from(crypto.getRandomValues(new Uint32Array(3)), (n) => n.toString(36)).join("");
let lastKey = 0;

export class Unsent {
  #client;
  #onChange;

  /** `onChange(room, why)` is called when there is something else to show; `why` is set if a
   *  message has failed. */
  constructor(client, onChange) {
    this.#client = client;
    this.#onChange = onChange;
  }

  /** Says something in a room; once more what failed, under the same `key`. */
  say(room, text, key = `${PREFIX}-${(lastKey += 1)}`) {
    room.unsent.set(key, { text });
    this.#client.send(room.id, text, { key }).then(
      () => {
        if (room.unsent.has(key)) room.unsent.set(key, { text, isTaken: true });
      },
      (error) => {
        if (!room.unsent.has(key)) return;
        const why = failureInWords(error);
        room.unsent.set(key, { text, error: why });
        this.#onChange(room, why);
      },
    );
    this.#onChange(room);
  }

  /** A message is not taken yet, and is tried again by itself. */
  delay(room, key, why) {
    const sending = room.unsent.get(key);
    if (!sending || sending.isTaken) return;
    room.unsent.set(key, { ...sending, delay: why });
    this.#onChange(room);
  }

  show(room) {
    const rows = [...room.unsent].map(([key, { text, error, delay, isTaken }]) => {
      const discard = () => {
        room.unsent.delete(key);
        this.#onChange(room);
      };
      const row = unsentRow({ text, error, delay }, () => this.say(room, text, key), discard);
      row.classList.toggle("taken", Boolean(isTaken));
      return row;
    });
    byId("unsent").replaceChildren(...rows);
  }
}

/** One's own message on its way; `onRetry` if it did not get there. */
function unsentRow({ text, error, delay }, onRetry, onDiscard) {
  const waits = delay ? `${delay} Sending in a moment …` : "Sending …";
  const state = make("p", { class: "state" }, error ?? waits);
  const item = make("li", { class: `message own unsent${error ? " failed" : ""}` });
  if (error) {
    const retry = make("button", { type: "button", class: "small", "data-testid": "resend" }, "Send again");
    const discard = make("button", { type: "button", class: "small" }, "Discard");
    retry.addEventListener("click", onRetry);
    discard.addEventListener("click", onDiscard);
    state.append(" ", retry, " ", discard);
  }
  const body = make("div", { class: "body" }, make("p", { class: "text", dir: "auto" }, text), state);
  item.append(make("div", { class: "line" }, body));
  return item;
}
