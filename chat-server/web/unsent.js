// One's own messages that the room has not seen yet.

import { byId, make } from "./dom.js";
import { failureInWords } from "./words.js";

/** Keys begin with it: no two pages use the same. */
const PREFIX = Array.from(crypto.getRandomValues(new Uint32Array(3)), (n) => n.toString(36)).join("");
let lastKey = 0;

/** Errors that the same text would have again. */
const ERRORS_OF_THE_TEXT = new Set(["message_too_long", "too_large", "bad_field", "rejected"]);

export class Unsent {
  #client;
  #onChange;
  #onEdit;

  /** `onChange(room, why)` is called when there is something else to show; `why` is set if a
   *  message has failed. `onEdit(text)` is called when the user wants to change what has failed. */
  constructor(client, { onChange, onEdit }) {
    this.#client = client;
    this.#onChange = onChange;
    this.#onEdit = onEdit;
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
        room.unsent.set(key, { text, error: why, needsEdit: ERRORS_OF_THE_TEXT.has(error.code) });
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
    const rows = [...room.unsent].map(([key, { text, error, needsEdit, delay, isTaken }]) => {
      const discard = () => {
        room.unsent.delete(key);
        this.#onChange(room);
      };
      const edit = () => {
        discard();
        this.#onEdit(text);
      };
      const resend = () => this.say(room, text, key);
      const buttons = [
        needsEdit ? button("Edit", "edit", edit) : button("Send again", "resend", resend),
        button("Discard", "discard", discard),
      ];
      const row = unsentRow({ text, error, delay }, buttons);
      row.classList.toggle("taken", Boolean(isTaken));
      return row;
    });
    byId("unsent").replaceChildren(...rows);
  }
}

/** One's own message on its way; with `buttons` if it did not get there. */
function unsentRow({ text, error, delay }, buttons) {
  const waits = delay ? `${delay} Sending in a moment …` : "Sending …";
  const state = make("p", { class: "state" }, error ?? waits);
  const item = make("li", { class: `message own unsent${error ? " failed" : ""}` });
  if (error) state.append(...buttons.flatMap((one) => [" ", one]));
  const body = make("div", { class: "body" }, make("p", { class: "text", dir: "auto" }, text), state);
  item.append(make("div", { class: "line" }, body));
  return item;
}

function button(label, testId, onClick) {
  const made = make("button", { type: "button", class: "small", "data-testid": testId }, label);
  made.addEventListener("click", onClick);
  return made;
}
