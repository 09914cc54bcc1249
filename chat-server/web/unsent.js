// One's own messages that the room has not sent back yet.

import { byId, make } from "./dom.js";
import { errorInWords, failureInWords } from "./words.js";

/** Errors that the same text would have again. */
const ERRORS_OF_THE_TEXT = new Set(["message_too_long", "too_large", "bad_field", "rejected"]);

/** Shows them. `onEdit(text)` is called when the user wants to change what has failed. */
export function showUnsent({ handle, pending }, onEdit) {
  byId("unsent").replaceChildren(...pending.map((message) => unsentRow(handle, message, onEdit)));
}

function unsentRow(handle, { key, message, state, error }, onEdit) {
  const isFailed = state === "failed";
  const waits = state === "delayed" ? `${errorInWords(error)} Sending in a moment …` : "Sending …";
  const line = make("p", { class: "state" }, isFailed ? failureInWords(error) : waits);
  if (isFailed) {
    const edit = () => {
      handle.discard(key);
      onEdit(message);
    };
    const first = ERRORS_OF_THE_TEXT.has(error.code)
      ? button("Edit", "edit", edit)
      : button("Send again", "resend", () => handle.resend(key));
    line.append(" ", first, " ", button("Discard", "discard", () => handle.discard(key)));
  }
  const item = make("li", { class: `message own unsent${isFailed ? " failed" : ""}` });
  item.classList.toggle("taken", state === "sent");
  const body = make("div", { class: "body" }, make("p", { class: "text", dir: "auto" }, message), line);
  item.append(make("div", { class: "line" }, body));
  return item;
}

function button(label, testId, onClick) {
  const made = make("button", { type: "button", class: "small", "data-testid": testId }, label);
  made.addEventListener("click", onClick);
  return made;
}
