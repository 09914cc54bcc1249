// The page: what happens in the rooms goes into view, what one does goes to the server.

import { ChatClient } from "./chat-client.js";
import { announce } from "./announce.js";
import { byId } from "./dom.js";
import { Log, unsentRow } from "./log.js";
import { asked, createRoom, lastName, linkTo, linkToStart, session, socketUrl } from "./place.js";
import { Room } from "./room.js";
import { openShare } from "./share.js";
import { showMembers, showRooms, showTypists } from "./sides.js";
import { showConnection } from "./status.js";

/** The latest messages that a newcomer asks for. */
const HISTORY = 50;

/** In a room with more people their coming and going is not worth a line each. */
const CROWD = 100;

const saved = session.load();
const wish = asked();
const isSomeoneElse = wish.name !== null && wish.name !== saved.name;

let name = wish.name ?? saved.name;
const client = new ChatClient(socketUrl(), {
  name: name || undefined,
  resume: isSomeoneElse ? undefined : saved.resume,
});
const rooms = new Map();
let current = null;

const log = new Log(byId("scroller"), byId("log"), (follows) => (byId("newest").hidden = follows));
const keyPrefix = Array.from(crypto.getRandomValues(new Uint32Array(3)), (n) => n.toString(36)).join("");
let lastKey = 0;

// Rooms: enter, switch, leave.

function enter(id) {
  if (!rooms.has(id)) {
    const room = new Room(id);
    rooms.set(id, room);
    client.join(id, { history: HISTORY }).catch((error) => {
      if (rooms.get(id) === room && error.code !== "closed") drop(room, error.message);
    });
  }
  switchTo(rooms.get(id));
}

function switchTo(room) {
  if (current) current.draft = byId("message").value;
  current = room;
  current.unread = 0;
  history.replaceState(null, "", linkTo(room.id));
  byId("start").hidden = true;
  byId("chat").hidden = false;
  byId("title").textContent = room.id;
  byId("message").value = room.draft;
  byId("message").placeholder = `Message ${room.id}`;
  closePeople();
  log.show(room);
  refresh();
  save();
  // On a touch screen the keyboard would cover what one came to read.
  byId(matchMedia("(pointer: coarse)").matches ? "title" : "message").focus();
}

function drop(room, why) {
  rooms.delete(room.id);
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
  client.leave(room.id).catch(() => {});
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
  session.save({ name, resume: client.resume, rooms: ids, current: current?.id });
}

// The way in.

function showStart({ room = "", error = "" } = {}) {
  current = null;
  byId("chat").hidden = true;
  byId("start").hidden = false;
  byId("name").value = name ?? lastName.load();
  byId("room").value = room;
  byId("start-error").textContent = error;
  if (!error && wish.room === null) history.replaceState(null, "", linkToStart());
  document.title = "Chat";
  byId(error ? "room" : "name").focus();
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
  const welcome = isNew ? client.rename(chosen || undefined) : client.connect();
  welcome.catch(showRefusal);
}

/** The server does not want this name, or this page. */
function showRefusal(error) {
  if (error.code === "closed") return;
  const room = current?.id ?? "";
  for (const id of rooms.keys()) client.leave(id).catch(() => {});
  rooms.clear();
  showStart({ room, error: error.message });
  save();
}

/** Makes a room of one's own, and shows how others get there. */
async function create(showError) {
  let id;
  try {
    id = await createRoom();
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

// What happens.

client.on("state", (change) => {
  if (change.state === "online") save();
  showConnection(change, client);
});

client.on("joined", (joined) => {
  const room = rooms.get(joined.room);
  if (!room) return;
  room.welcome(joined);
  room.came(client.user);
  if (!joined.rejoined) room.notice("You joined the room.");
  for (const [key, { isTaken }] of room.unsent) {
    if (isTaken) room.unsent.delete(key);
  }
  changed(room);
});

client.on("gap", ({ room: id }) => {
  const room = rooms.get(id);
  room?.notice("The connection was away. Messages may be missing here.");
  changed(room);
});

client.on("message", ({ room: id, user, message: text, at, key }) => {
  const room = rooms.get(id);
  if (!room) return;
  const isOwn = user.id === client.user.id;
  room.add({ user, text, at, isOwn });
  room.typed(user, false);
  if (isOwn) room.unsent.delete(key);
  else if (room !== current || document.hidden) room.unread += 1;
  if (room === current && !isOwn) announce(`${user.name}: ${text}`, "new messages");
  changed(room);
});

client.on("presence", ({ room: id, event, user, count }) => {
  const room = rooms.get(id);
  if (!room) return;
  if (event === "count") {
    room.count = count;
  } else if (user.id !== client.user.id) {
    if (event === "joined") room.came(user);
    else room.left(user);
    if (room.count <= CROWD) room.notice(`${user.name} ${event} the room.`);
    if (room === current && room.count <= CROWD) {
      announce(`${user.name} ${event} the room.`, "people came or left");
    }
  }
  changed(room);
});

client.on("typing", ({ room: id, user, typing }) => {
  const room = rooms.get(id);
  if (!room || user.id === client.user.id) return;
  room.typed(user, typing);
  if (room === current) showTypists(room);
});

client.on("refused", ({ room, error }) => {
  if (rooms.has(room)) drop(rooms.get(room), error.message);
});

// Speaking.

function speak(room, text, key = `${keyPrefix}-${(lastKey += 1)}`) {
  room.unsent.set(key, { text });
  client.send(room.id, text, { key }).then(
    () => {
      if (room.unsent.has(key)) room.unsent.set(key, { text, isTaken: true });
    },
    (error) => {
      if (!room.unsent.has(key)) return;
      room.unsent.set(key, { text, error: error.message });
      if (room === current) announce(`Not sent: ${error.message}`);
      changed(room);
    },
  );
  changed(room);
}

function showUnsent() {
  const rows = [...current.unsent].map(([key, { text, error, isTaken }]) => {
    const room = current;
    const discard = () => {
      room.unsent.delete(key);
      changed(room);
    };
    const row = unsentRow({ text, error }, () => speak(room, text, key), discard);
    row.classList.toggle("taken", Boolean(isTaken));
    return row;
  });
  byId("unsent").replaceChildren(...rows);
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = byId("message");
  const text = field.value.trim();
  if (!text) return;
  field.value = "";
  client.typing(current.id, false);
  if (!log.follows) log.toNewest();
  speak(current, text);
});

byId("message").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("composer").requestSubmit();
});

byId("message").addEventListener("input", ({ target }) => {
  client.typing(current.id, target.value.trim() !== "");
});

// Around the room.

function changed(room) {
  if (room === current && room) log.changed();
  refresh();
}

let isRefreshDue = false;

/** Brings everything but the messages up to date: with the next frame, and in a page that
 *  is not seen and has no frames, at least the title. */
function refresh() {
  showTitle();
  if (isRefreshDue) return;
  isRefreshDue = true;
  requestAnimationFrame(() => {
    isRefreshDue = false;
    byId("me").textContent = client.user?.name ?? name ?? "";
    showRooms([...rooms.values()], current, switchTo);
    if (!current) return;
    showMembers(current, client.user);
    showTypists(current);
    showUnsent();
    byId("empty").hidden = current.unsent.size > 0 || current.entries.some((entry) => entry.user);
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
byId("retry").addEventListener("click", () => client.connect().catch(() => {}));
byId("people").addEventListener("click", ({ currentTarget }) => {
  const isOpen = byId("chat").classList.toggle("shows-people");
  currentTarget.setAttribute("aria-expanded", String(isOpen));
});

document.addEventListener("keydown", (event) => {
  if (!current || document.querySelector("dialog[open]")) return;
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
  if (client.state === "waiting") client.connect().catch(() => {});
});

window.addEventListener("online", () => {
  if (client.state === "waiting") client.connect().catch(() => {});
});

// The icon is asked for late, and its address is relative to the page's, which changes.
const icon = document.querySelector("link[rel=icon]");
icon.href = icon.href;

// Begin: where the tab was before a reload, or where its address says, or at the start.

const known = isSomeoneElse ? [] : (saved.rooms ?? []);
if (known.length > 0 || (wish.room !== null && wish.name !== null)) {
  client.connect().catch(showRefusal);
  known.forEach(enter);
  const first = wish.room ?? saved.current ?? known[0];
  enter(first);
} else if (wish.room !== null) {
  invite(wish.room);
} else {
  showStart();
}
