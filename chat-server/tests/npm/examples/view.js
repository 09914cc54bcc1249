import { FINAL, STATES, noteOf, sentence } from "./words.js";

/** A room before anything is known of it. */
export const EMPTY = { state: "joining", messages: [], members: [], count: 0, typists: [] };

/** The reason with which the application disconnects a user who logs out: no moderator did it. */
const LOGGED_OUT = "logged_out";

const element = (id) => document.getElementById(id);
const say = (text) => (element("state").textContent = text);
const fail = (text) => (element("failure").textContent = text);

/** By the id of a message: its row, what the row shows, and the text of the message. */
const rows = new Map();

/** Calls the actions when the user does something. */
export function bind(actions) {
  element("form").onsubmit = (event) => {
    event.preventDefault();
    const text = element("text").value.trim();
    if (text) actions.send(text);
    actions.typing(false);
    event.target.reset();
  };
  element("text").oninput = ({ target }) => actions.typing(target.value !== "");
  element("older").onclick = () => actions.history();
  element("again").onclick = () => actions.again();
  element("log-out").onclick = () => {
    fail("");
    actions.logOut().catch((error) => fail(sentence(error)));
  };
  element("log").onclick = ({ target }) => {
    const { action, key } = target.dataset;
    if (action === "edit") takeBack(target.closest("li"));
    if (action) actions[action === "edit" ? "discard" : action](key);
  };
}

/** Puts the text of a message into the input, before what is there. */
function takeBack(row) {
  const input = element("text");
  const { text } = [...rows.values()].find((known) => known.row === row);
  input.value = [text, input.value].filter(Boolean).join(" ");
  // So that the text is kept as one that was typed.
  input.dispatchEvent(new Event("input"));
  input.focus();
}

/** Shows the `status` of a client and the `snapshot` of a room. */
export function show(status, snapshot) {
  const { state, messages, hasMore, isLoading, members, count, typists } = snapshot;
  const end = endOf(status, snapshot);
  const isJoining = status.state === "online" && state === "joining";
  say(end ? sentence(end) : isJoining ? "Joining…" : STATES[status.state]);
  element("reason").textContent = end?.reason ?? "";
  element("reason").hidden = !end?.reason;
  const isLeft = status.state === "online" && state === "left";
  element("again").textContent = status.by === "no_token" ? "Log in" : isLeft ? "Join again" : "Connect now";
  element("again").hidden = !end && status.state !== "waiting";
  element("log-out").disabled = status.state === "logging_out";
  element("members").textContent = `${count} here: ${namesOf(members)}`;
  element("typing").textContent = typists.length > 0 ? `Typing: ${namesOf(typists)}` : "";
  element("older").hidden = !hasMore;
  element("older").disabled = isLoading;
  showMessages(messages);
}

/** Why the user is out, if that is so. */
function endOf(status, { state, error }) {
  // Whatever ends the connection now, the user has asked for it.
  if (status.state === "logging_out") return undefined;
  // The user has a session, whose token the chat refuses: another log-in would not help.
  if (status.by === "token_refused") return { code: status.by };
  // What ended the client comes after what ended the stay in the room: a ban after a kick.
  const end = status.error ?? (state === "left" ? error : undefined);
  return end?.code === "kicked" && end.reason === LOGGED_OUT ? { code: "unauthorized" } : end;
}

const namesOf = (users) => users.map(({ name }) => name).join(", ");

/** Changes the rows that have changed, and leaves the others as they are. */
function showMessages(messages) {
  let next = element("log").firstElementChild;
  for (const message of messages) {
    const row = rowOf(message);
    if (row === next) next = next.nextElementSibling;
    else element("log").insertBefore(row, next);
  }
  const ids = new Set(messages.map(({ id }) => id));
  for (const [id, { row }] of rows) {
    if (ids.has(id)) continue;
    row.remove();
    rows.delete(id);
  }
}

function rowOf(message) {
  const known = rows.get(message.id) ?? { row: document.createElement("li") };
  rows.set(message.id, known);
  const { user, state, error, key, isAfterGap } = message;
  // Before the first connection the client does not know the name that the token has.
  const name = user.name || "You";
  const text = `${isAfterGap ? "(Messages before this one are lost.) " : ""}${name}: ${message.message}`;
  const note = error ? noteOf(error) : state === "sending" ? "…" : "";
  const shown = [text, note, state, key].join("\n");
  if (known.shown === shown) return known.row;
  Object.assign(known, { shown, text: message.message });
  const buttons = [];
  if (state === "failed" && !FINAL.has(error.code)) buttons.push(button("resend", "Send again", key));
  if (state === "failed") buttons.push(button("edit", "Edit", key), button("discard", "Discard", key));
  known.row.replaceChildren(`${text} ${note}`.trim(), ...buttons);
  return known.row;
}

function button(action, label, key) {
  const made = document.createElement("button");
  made.textContent = label;
  Object.assign(made.dataset, { action, key });
  return made;
}
