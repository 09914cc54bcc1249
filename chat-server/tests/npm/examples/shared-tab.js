import { endSession } from "./end-session.js";
import { claimStorage, isSentAgain, keepDrafts, store } from "./unsent.js";
import { EMPTY, bind, show } from "./view.js";

/** Another one with each version of the worker: tabs of the version before keep theirs. */
const WORKER = "/shared-worker.js?version=1";
const PING_MS = 2_000;
const MOST_UNANSWERED = 3;

const ROOM = "general";

const { user } = document.body.dataset;
/** The lock and the channel of this user's log-out: the other users of the browser go on. */
const LOG_OUT = `logout ${user}`;
const PLACE = `unsent ${user} ${ROOM}`;
claimStorage(user);
const drafts = keepDrafts(document.getElementById("text"), `draft ${user}`);
drafts.show(ROOM);
let port;
let tab;
let status = { state: "connecting" };
let snapshot = EMPTY;
let unanswered = 0;
/** Ends the wait for the end of the worker. */
let waiting = new AbortController();
/** Messages that the worker has not sent yet, by key: it ends with its process, or with its last tab. */
const unsent = new Map(JSON.parse(sessionStorage.getItem(PLACE) ?? "[]"));
const save = () => store(sessionStorage, PLACE, JSON.stringify([...unsent]));

/** The tabs of a user have one session. */
const logouts = new BroadcastChannel(LOG_OUT);
logouts.onmessage = forget;

const call = (...request) => port?.postMessage(request);

/** Holds a lock while this tab is there, so that the worker learns of its end, and starts. */
function open() {
  tab = crypto.randomUUID();
  navigator.locks.request(tab, () => {
    start();
    return new Promise(() => {});
  });
}

/** Connects to the worker of this user. The browser starts one if there is none. */
function start() {
  close();
  waiting = new AbortController();
  unanswered = 0;
  status = { state: "connecting" };
  update();
  ({ port } = new SharedWorker(WORKER, { type: "module", name: user }));
  port.onmessage = ({ data }) => receive(data);
  call("join", ROOM, tab);
  sendUnsent();
}

/** Shows also what the worker does not have yet: its script may not be loaded. */
function update() {
  const known = new Set(snapshot.messages.map(({ key }) => key));
  const isPending = ([key, { code }]) => !known.has(key) && !code;
  const row = ([key, { text }]) => ({ id: key, key, user: {}, message: text, state: "sending" });
  const messages = [...snapshot.messages, ...[...unsent].filter(isPending).map(row)];
  show(status, { ...snapshot, messages });
}

/** Ends the connection to the worker, which leaves the room. */
function close() {
  call("leave");
  port?.close();
  port = undefined;
  waiting.abort();
}

/** What could be there twice, or was refused, is a draft. */
function sendUnsent() {
  for (const [key, message] of unsent) {
    if (isSentAgain(message)) call("send", message.text, key);
    else call("toDraft", key);
  }
}

function toDraft(key) {
  if (unsent.has(key)) drafts.add(ROOM, [unsent.get(key).text]);
  unsent.delete(key);
  save();
  update();
}

function receive(data) {
  unanswered = 0;
  // The browser releases the lock of the worker when that ends. Its process may have crashed.
  if (data.lock) navigator.locks.request(data.lock, { mode: "shared", signal: waiting.signal }, start).catch(() => {});
  if (data.settled) settle(data.settled, data.code);
  if (data.draft) toDraft(data.draft);
  if (!data.status) return;
  ({ status, snapshot } = data);
  update();
}

function settle(key, code) {
  const message = unsent.get(key);
  if (!message) return;
  if (code) message.code = code;
  else unsent.delete(key);
  save();
}

/** Nothing is there for the next user, not even by the button "Back" of the browser. */
function forget() {
  document.body.inert = true;
  close();
  unsent.clear();
  sessionStorage.clear();
  location.replace("/login");
}

/** No event says that the worker's script was not loaded. */
function ping() {
  if (!port) return;
  unanswered += 1;
  if (unanswered > MOST_UNANSWERED) start();
  else call("ping");
}

bind({
  send(text) {
    const key = crypto.randomUUID();
    unsent.set(key, { text, at: Date.now() });
    save();
    update();
    call("send", text, key);
  },
  resend: (key) => call("resend", key),
  discard: (key) => call("discard", key),
  typing: (isTyping) => call("typing", isTyping),
  history: () => call("history"),
  again: () => (status.by === "no_token" ? location.assign("/login") : call("again")),
  async logOut() {
    const isUnsent = unsent.size > 0 || status.queued > 0;
    if (isUnsent && !confirm("Messages are not sent yet. Log out without them?")) return;
    // The worker, or another one after a crash, does not connect before the outcome.
    await navigator.locks.request(LOG_OUT, async () => {
      call("logOut");
      await endSession(user);
      logouts.postMessage("");
    });
    forget();
  },
});

update();
open();
setInterval(ping, PING_MS);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  call("check");
  ping();
});
addEventListener("beforeunload", (event) => unsent.size > 0 && event.preventDefault());
// While the browser keeps the page in its back/forward cache, the tab is in no room. It may lose its lock there.
addEventListener("pagehide", ({ persisted }) => persisted && close());
addEventListener("pageshow", ({ persisted }) => persisted && open());
