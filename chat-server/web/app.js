// The page: shows the events of the rooms, and sends the actions of the user to the server.

import { ChatClient } from "./chat-client.js";
import { announce } from "./announce.js";
import { correctClock, readClock, seeTime } from "./clock.js";
import { byId } from "./dom.js";
import { isComposing } from "./keys.js";
import { Log } from "./log.js";
import {
  pageParams,
  createRoom,
  hasToken,
  lastName,
  linkTo,
  linkToStart,
  session,
  showAddress,
  socketUrl,
  takeToken,
} from "./place.js";
import { Room } from "./room.js";
import { openShare } from "./share.js";
import { showMembers, showRooms, showTypists } from "./sides.js";
import { reconnectOnRequest, showConnection } from "./status.js";
import { showUnsent } from "./unsent.js";
import { errorInWords, evictionInWords, failureInWords } from "./words.js";

/** How many of the latest messages a join asks for. */
const HISTORY = 50;

/** Messages kept for scrolling back. */
const KEPT = 20_000;

/** How long a message may be retried: servers recognize its key for five minutes. */
const SEND_TIMEOUT_MS = 4 * 60_000;

/** In a room with more members, joins and leaves are not shown. */
const CROWD = 100;

const clock = readClock();
const saved = session.load();
const token = takeToken() ?? saved.token;
const params = pageParams();
const isSomeoneElse = params.name !== null && params.name !== saved.name;

let name = params.name ?? saved.name;
const client = new ChatClient(socketUrl(), {
  name: name || undefined,
  resume: isSomeoneElse ? undefined : saved.resume,
  token,
  sendTimeoutMs: SEND_TIMEOUT_MS,
});
const rooms = new Map();
let current = null;

const log = new Log(byId("scroller"), byId("log"), {
  follows: (follows) => (byId("newest").hidden = follows),
  top: () => current && !current.hasFailed && goBack(current),
});
// Rooms: open, switch, leave.

function enter(id) {
  if (!rooms.has(id)) {
    const room = new Room(client.room(id, { history: HISTORY, keep: KEPT }));
    rooms.set(id, room);
    room.handle.on("change", (change) => rooms.get(id) === room && onChange(room, change));
  }
  switchTo(rooms.get(id));
}

function switchTo(room) {
  if (current) current.draft = byId("message").value;
  current = room;
  current.unread = 0;
  showAddress(linkTo(room.id));
  byId("start").hidden = true;
  byId("chat").hidden = false;
  byId("title").textContent = room.id;
  byId("message").value = room.draft;
  byId("message").placeholder = `Message ${room.id}`;
  closePeople();
  log.show(room);
  refresh();
  save();
  // On a touch screen the keyboard would cover the messages.
  byId(matchMedia("(pointer: coarse)").matches ? "title" : "message").focus();
}

function drop(room, why) {
  rooms.delete(room.id);
  room.handle.release();
  const next = [...rooms.values()].at(-1);
  if (room !== current) {
    current?.notice(`${room.id}: ${why}`);
    refresh();
  } else if (next) {
    switchTo(next);
    if (why) next.notice(`${room.id}: ${why}`);
    refresh();
  } else {
    showStart(why ? { room: room.id, error: why } : {});
  }
  if (why) announce(why);
  save();
}

function leave() {
  const room = current;
  byId("message").value = "";
  drop(room);
  announce(`You left ${room.id}.`);
}

function switchBy(step) {
  const all = [...rooms.values()];
  const index = (all.indexOf(current) + step + all.length) % all.length;
  switchTo(all[index]);
}

function save() {
  const ids = [...rooms.keys()];
  session.save({ name, resume: client.resume, token, rooms: ids, current: current?.id });
}

// The start page.

function showStart({ room = "", error = "" } = {}) {
  current = null;
  byId("chat").hidden = true;
  byId("start").hidden = false;
  byId("name").value = name ?? lastName.load();
  // The name of a user with a token is in the token.
  for (const part of document.querySelectorAll("[for=name], #name")) part.hidden = Boolean(token);
  byId("room").value = room;
  byId("start-error").textContent = error;
  if (!error && params.room === null) showAddress(linkToStart());
  document.title = "Chat";
  byId(error || token ? "room" : "name").focus();
}

function invite(room) {
  showStart({ room });
  byId("start-title").textContent = "You are invited";
  byId("start-text").textContent = "Pick a name and join the conversation.";
}

function takeName() {
  const chosen = byId("name").value.trim();
  lastName.save(chosen);
  const isNew = chosen !== (name ?? "");
  name = chosen;
  // A closed client takes no name before it connects again.
  const connects = !isNew || client.state === "closed";
  const welcome = connects ? client.connect() : undefined;
  (isNew ? client.rename(chosen || undefined) : welcome).catch(showRefusal);
}

/** The server has rejected the name, or the page. */
function showRefusal(error) {
  // The banner says these.
  if (["closed", "kicked", "banned", "timeout"].includes(error.code)) return;
  const room = current?.id ?? "";
  for (const { handle } of rooms.values()) handle.release();
  rooms.clear();
  showStart({ room, error: errorInWords(error, token) });
  save();
}

/** Creates a room, and shows its link. */
async function create(showError) {
  let id;
  try {
    id = await createRoom(token);
  } catch (error) {
    showError(`The room could not be made. ${error.message}`);
    return;
  }
  byId("add-dialog").close();
  enter(id);
  openShare(linkTo(id));
}

byId("start-form").addEventListener("submit", (event) => {
  event.preventDefault();
  takeName();
  enter(byId("room").value.trim() || "general");
});

byId("start-create").addEventListener("click", () => {
  takeName();
  create((error) => (byId("start-error").textContent = error));
});

byId("add-room").addEventListener("click", () => {
  byId("add-name").value = "";
  byId("add-error").textContent = "";
  byId("add-dialog").showModal();
});

byId("add-form").addEventListener("submit", (event) => {
  event.preventDefault();
  byId("add-dialog").close();
  enter(byId("add-name").value.trim() || "general");
});

byId("add-cancel").addEventListener("click", () => byId("add-dialog").close());

byId("add-create").addEventListener("click", () => {
  create((error) => (byId("add-error").textContent = error));
});

// Events of the client.

client.on("state", (change) => {
  if (change.state === "online") {
    correctClock();
    save();
  }
  showConnection(change, client);
});

// Events of a room.

function onChange(room, change) {
  handlers[change.what]?.(room, change);
  if (room === current) log.changed();
  refresh();
}

const handlers = {
  state(room, { rejoined }) {
    const { state, error } = room.handle.snapshot;
    // On the next connection older messages may be loaded.
    room.hasFailed = false;
    // The page says by itself that the client was closed, and the next connection joins the room.
    if (state === "left" && client.state !== "closed") drop(room, evictionInWords(error, token));
    else if (state === "joined" && !rejoined) room.notice("You joined the room.");
  },

  message(room, { message, isNew, dropped }) {
    const { user, at, isOwn, message: text } = message;
    seeTime(at);
    room.add(message);
    room.drop(dropped);
    if (isOwn || !isNew) return;
    if (room !== current || document.hidden) room.unread += 1;
    if (room === current) announce(`${user.name}: ${text}`, "new messages");
  },

  history(room, { count }) {
    if (count) room.prepend(room.handle.snapshot.messages.slice(0, count));
  },

  gap(room) {
    room.notice("The connection was away. Messages may be missing here.");
  },

  pending(room, { key }) {
    const { error } = room.pending.find((message) => message.key === key && message.state === "failed") ?? {};
    if (error && room === current) announce(failureInWords(error));
  },

  members(room, { event, user, before }) {
    if (!user || user.id === client.user.id) return;
    if (event === "renamed" && before) room.notice(`${before.name} is now ${user.name}.`);
    if (event === "renamed" || room.handle.snapshot.count > CROWD) return;
    const what = `${user.name} ${event} the room.`;
    room.notice(what);
    if (room === current) announce(what, "people came or left");
  },
};

// Sending.

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = byId("message");
  const text = field.value.trim();
  if (!text) return;
  field.value = "";
  current.handle.typing(false);
  if (!log.follows) log.toNewest();
  current.handle.send(text);
});

byId("message").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || isComposing(event)) return;
  event.preventDefault();
  byId("composer").requestSubmit();
});

byId("message").addEventListener("input", ({ target }) => {
  current.handle.typing(target.value.trim() !== "");
});

/** Puts the text of a message that failed back into the field. */
function edit(text) {
  const field = byId("message");
  // Text that was typed since stays below it.
  field.value = [text, field.value].filter(Boolean).join("\n");
  field.focus();
}

// Around the room.

/** Loads the messages before the oldest one. */
function goBack(room) {
  room.hasFailed = false;
  room.handle.history().catch(() => {
    room.hasFailed = true;
    refresh();
  });
}

/** Shows that older messages are loading, or failed to load: then the user may retry. */
function showOlder({ hasFailed, handle }) {
  const { isLoading } = handle.snapshot;
  byId("older").hidden = !isLoading && !hasFailed;
  byId("older").disabled = isLoading;
  byId("older").textContent =
    hasFailed ? "Earlier messages did not come. Try again" : "Loading earlier messages …";
}

let isRefreshDue = false;

/** Updates everything but the messages with the next animation frame. A hidden page has no frames:
 *  there only the title is updated. */
function refresh() {
  showTitle();
  if (isRefreshDue) return;
  isRefreshDue = true;
  requestAnimationFrame(() => {
    isRefreshDue = false;
    byId("me").textContent = client.user?.name ?? name ?? "";
    showRooms([...rooms.values()], current, switchTo);
    if (!current) return;
    showMembers(current.handle.snapshot, client.user);
    showTypists(current.handle.snapshot);
    showOlder(current);
    showUnsent(current, edit);
    byId("empty").hidden = current.handle.snapshot.messages.length > 0;
    log.changed();
  });
}

function showTitle() {
  const unread = [...rooms.values()].reduce((sum, room) => sum + room.unread, 0);
  if (current) document.title = `${unread ? `(${unread}) ` : ""}${current.id} · Chat`;
}

function closePeople() {
  byId("chat").classList.remove("shows-people");
  byId("people").setAttribute("aria-expanded", "false");
}

byId("share").addEventListener("click", () => openShare(linkTo(current.id)));
byId("empty-share").addEventListener("click", () => openShare(linkTo(current.id)));
byId("leave").addEventListener("click", leave);
byId("newest").addEventListener("click", () => log.toNewest());
byId("older").addEventListener("click", () => goBack(current));
byId("people").addEventListener("click", ({ currentTarget }) => {
  const isOpen = byId("chat").classList.toggle("shows-people");
  currentTarget.setAttribute("aria-expanded", String(isOpen));
});

document.addEventListener("keydown", (event) => {
  if (!current || isComposing(event) || document.querySelector("dialog[open]")) return;
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (event.altKey && step) {
    event.preventDefault();
    switchBy(step);
  } else if (event.key === "Escape") {
    closePeople();
  }
});

document.addEventListener("visibilitychange", () => {
  if (document.hidden || !current) return;
  current.unread = 0;
  refresh();
});

reconnectOnRequest(client);

// The browser loads the icon late, and its URL is relative to that of the page, which changes.
const icon = document.querySelector("link[rel=icon]");
icon.href = icon.href;

// Another token was put into the address of this open page.
window.addEventListener("hashchange", () => {
  if (hasToken()) location.reload();
});

// Start with the rooms of the tab before a reload, with those in the address, or with the start page.

const known = isSomeoneElse ? [] : (saved.rooms ?? []);
if (known.length > 0 || (params.room !== null && (params.name !== null || token))) {
  // Messages and notices are dated by this clock.
  await clock;
  client.connect().catch(showRefusal);
  known.forEach(enter);
  const first = params.room ?? saved.current ?? known[0];
  enter(first);
} else if (params.room !== null) {
  invite(params.room);
} else {
  showStart();
}
