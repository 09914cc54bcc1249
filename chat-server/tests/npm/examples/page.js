import { ChatClient, Unauthorized } from "/roomcast/chat-client.js";
import { endSession } from "./end-session.js";
import { listRooms } from "./rooms.js";
import { SEND_TIMEOUT_MS, claimStorage, keepDrafts, keepUnsent } from "./unsent.js";
import { bind, show } from "./view.js";

const { user } = document.body.dataset;
/** The lock and the channel of this user's log-out: the other users of the browser go on. */
const LOG_OUT = `logout ${user}`;
const UNSENT = `unsent ${user}`;

const chat = new ChatClient("wss://chat.example/ws", {
  token: async () => {
    const signal = AbortSignal.timeout(10_000);
    const answer = await fetch(`/chat-token?user=${encodeURIComponent(user)}`, { cache: "no-store", signal });
    if (answer.status === 401) throw new Unauthorized();
    if (!answer.ok) throw new Error(`The backend answered ${answer.status}.`); // is asked again
    return answer.text();
  },
  sendTimeoutMs: SEND_TIMEOUT_MS,
});
const rooms = ["general", "help"].map((name) => chat.room(name));
/** The one that is shown. */
let [room] = rooms;

/** Connects, though not while a tab logs out: the session is still there then. */
const connect = () => navigator.locks.request(LOG_OUT, { mode: "shared" }, () => void chat.connect());

/** Whether a tab of this browser holds a lock in this mode. */
async function isHeld(name, mode) {
  const { held } = await navigator.locks.query();
  return held.some((lock) => lock.name === name && lock.mode === mode);
}

let releaseUnsent;

/** While messages of this tab are not sent, it holds a lock, by which the other tabs learn of them. */
function holdUnsent() {
  if (chat.queued === 0) {
    releaseUnsent?.();
    releaseUnsent = undefined;
  } else if (!releaseUnsent) {
    const sent = new Promise((resolve) => (releaseUnsent = resolve));
    navigator.locks.request(UNSENT, { mode: "shared" }, () => sent);
  }
}

let isLoggingOut = false;

/** The tabs of a user have one session: while one logs out, all are disconnected. */
const logouts = new BroadcastChannel(LOG_OUT);
logouts.onmessage = ({ data }) => (data === "begin" ? beginLogOut() : leave());

/** Disconnects until the tab that logs out knows the outcome, and releases its lock. */
function beginLogOut() {
  isLoggingOut = true;
  chat.close();
  update();
  navigator.locks.request(LOG_OUT, { mode: "shared" }, () => {
    isLoggingOut = false;
    update();
  });
}

/** Nothing is there for the next user, not even by the button "Back" of the browser. */
function leave() {
  document.body.inert = true;
  for (const each of rooms) each.release(); // so that what fails now is not stored
  chat.close();
  sessionStorage.clear();
  location.replace("/login");
}

bind({
  send: (text) => room.send(text),
  resend: (key) => room.resend(key),
  discard: (key) => room.discard(key),
  typing: (isTyping) => room.typing(isTyping),
  history: () => room.history(),
  again() {
    if (chat.status.by === "no_token") location.assign("/login");
    else if (chat.state === "online") room.join();
    else connect(); // also joins the room
  },
  async logOut() {
    if ((await isHeld(UNSENT, "shared")) && !confirm("Messages are not sent yet. Log out without them?")) return;
    await navigator.locks.request(LOG_OUT, async () => {
      // First, since it waits for nothing: the other users see at once that this one has left.
      beginLogOut();
      logouts.postMessage("begin");
      await endSession(user);
      logouts.postMessage("end");
    });
    leave();
  },
});

const update = () => show(isLoggingOut ? { state: "logging_out" } : chat.status, room.snapshot);
for (const each of rooms) {
  each.on("change", () => {
    holdUnsent();
    if (each === room) update();
  });
}
chat.on("state", update);
connect();

claimStorage(user);
const drafts = keepDrafts(document.getElementById("text"), `draft ${user}`);
for (const each of rooms) drafts.add(each.name, keepUnsent(each, `unsent ${user}`));
listRooms(rooms, document.getElementById("rooms"), (next) => {
  room.typing(false);
  room = next;
  drafts.show(room.name);
  update();
});
addEventListener("beforeunload", (event) => chat.queued > 0 && event.preventDefault());
// This page was opened during a log-out.
if (await isHeld(LOG_OUT, "exclusive")) beginLogOut();
