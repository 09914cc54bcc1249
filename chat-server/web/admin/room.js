// One room: its messages, read once a second, and its members.

import { ApiError, roomPath, settled } from "./api.js";
import { button, counted, field, isolated, linkToUser, make, muted, named, number, section, table, time, update } from "./elements.js";
import { askForSanction } from "./sanctions.js";

const REFRESH_MS = 1000;

/** Messages that are shown. */
const SHOWN = 200;

/** Members that are listed. */
const LISTED = 500;

export function room({ view, api, has, act, repeat }, name) {
  if (!has("read")) return view.append(make("h1", { "data-testid": "title" }, name), muted("A room needs a key with the scope read."));
  const facts = make("p", { class: "muted", "data-testid": "facts" });
  const log = make("div", { class: "log", role: "log", tabindex: "0", "aria-label": "Messages", "data-testid": "log" });
  const members = make("div");
  const messages = new Messages(api, name, log);
  const columns = make("div", { class: "columns" }, section("Messages", log, ...composer()), section("Users", members));
  view.append(make("h1", { "data-testid": "title" }, name), facts, columns);

  repeat(REFRESH_MS, (signal) => settled([showFacts(signal), showMembers(signal), messages.update(signal)]));

  async function showFacts(signal) {
    const { count, epoch, offset } = await api.get(roomPath(name), {}, signal);
    const position = epoch ? ` · offset ${offset} of epoch ${epoch}` : "";
    facts.textContent = `${counted(count, "user")}${position}`;
  }

  async function showMembers(signal) {
    const present = await api.get(roomPath(name, "/members"), { limit: LISTED }, signal);
    update(members, present, ({ members: listed, count }) => (listed.length < count ? crowd(count) : listOf(listed)));
  }

  function composer() {
    if (!has("send")) return [];
    const send = (message, input) =>
      message && act("Sending the message", async () => {
        await api.post(roomPath(name, "/messages"), { message });
        input.value = "";
      });
    return [field("A message from this key", "message", "Send", send)];
  }

  function listOf(users) {
    const columns = has("moderate") ? ["@User", "Actions"] : ["@User"];
    const rows = users.map((user) => {
      const who = named(linkToUser(user.id, user.name), user.name !== user.id && user.id);
      return has("moderate") ? [who, actions(user)] : [who];
    });
    return table("members", columns, rows, "This room has no users.");
  }

  function actions(user) {
    return [
      button("Kick", `kick-${user.id}`, () => kick(user)),
      " ",
      button("Ban", `ban-${user.id}`, () => ban(user)),
    ];
  }

  async function kick(user) {
    const given = await askForSanction({ title: titleOf("Kick", user), action: "Kick", timed: false });
    if (given) await act(`Kicking ${user.name}`, () => api.post(roomPath(name, "/kick"), { user: user.id, ...given }));
  }

  async function ban(user) {
    const given = await askForSanction({ title: titleOf("Ban", user), action: "Ban" });
    if (given) await act(`Banning ${user.name}`, () => api.post(roomPath(name, "/ban"), { user: user.id, ...given }));
  }

  function titleOf(action, user) {
    const id = user.name === user.id ? [] : [" (", isolated(user.id), ")"];
    return [`${action} `, isolated(user.name), ...id, " from ", isolated(name)];
  }
}

function crowd(count) {
  const search = make("a", { href: "#/users" }, "Users");
  return make("p", { class: "muted" }, `${number(count)} users: too many to list. One of them is found in `, search, ".");
}

/** The latest messages of a room. Each update asks for what follows on the last one. */
class Messages {
  #api;
  #room;
  #log;
  #epoch;
  #offset;
  #isKept = true;

  constructor(api, room, log) {
    this.#api = api;
    this.#room = room;
    this.#log = log;
  }

  async update(signal) {
    if (!this.#isKept) return;
    try {
      await this.#read(signal);
    } catch (error) {
      if (!(error instanceof ApiError) || error.code !== "history_disabled") throw error;
      this.#isKept = false;
      this.#log.replaceChildren(make("p", { class: "muted" }, "This room keeps no history, so its messages are not shown here."));
    }
  }

  async #read(signal) {
    let page = await this.#page(this.#offset, signal);
    // Redis lost the messages, the oldest new ones are no longer kept, or more than a page is new: a
    // view that read page after page would fall ever further behind a busy room.
    const isCut = this.#offset !== undefined && !this.#continues(page);
    if (isCut) {
      page = await this.#page(undefined, signal);
      // The first messages of a room begin its epoch.
      const isFirst = this.#offset === 0 && (page.messages.at(0)?.offset ?? 1) === 1;
      if (!isFirst) this.#log.append(make("p", { class: "muted" }, "Messages are missing here."));
    }
    const follows = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 40;
    this.#log.append(...page.messages.map(line));
    while (this.#log.childElementCount > SHOWN) this.#log.firstElementChild.remove();
    if (follows) this.#log.scrollTop = this.#log.scrollHeight;
    this.#epoch = page.epoch;
    this.#offset = page.messages.at(-1)?.offset ?? page.offset;
  }

  #page(after, signal) {
    return this.#api.get(roomPath(this.#room, "/messages"), { after, limit: SHOWN }, signal);
  }

  /** Whether a page after the latest message has all that followed on it. */
  #continues({ epoch, more, messages }) {
    const [first] = messages;
    return epoch === this.#epoch && !more && (!first || first.offset === this.#offset + 1);
  }
}

/** The id comes first, by which a user is found and banned: anyone may have the name. */
function line({ offset, at, user, message, data }) {
  const content = data === undefined ? [isolated(message)] : [isolated(message), " ", make("code", {}, JSON.stringify(data))];
  const head = make("span", { class: "muted" }, `${offset} `, time(at), " ");
  const name = user.name === user.id ? [] : [" ", make("span", { class: "muted" }, "(", isolated(user.name), ")")];
  return make("p", {}, head, linkToUser(user.id), ...name, ": ", ...content);
}
