import { isSentAgain, keepDraft } from "./unsent.js";
import { EMPTY, bind, show } from "./view.js";

/** Another one with each version of the worker: tabs of the version before keep theirs. */
const WORKER = "/shared-worker.js?version=1";
const PING_MS = 2_000;
const MOST_UNANSWERED = 3;

const { user } = document.body.dataset;
const PLACE = `unsent ${user}`;
const addDrafts = keepDraft(document.getElementById("text"), `draft ${user}`);
let port;
let tab;
let status;
let snapshot = EMPTY;
let unanswered = 0;
/** Ends the wait for the end of the worker. */
let waiting = new AbortController();
/** Messages that the worker has not sent yet, by key: it ends with its process, or with its last tab. */
const unsent = new Map(JSON.parse(sessionStorage.getItem(PLACE) ?? "[]"));
const save = () => sessionStorage.setItem(PLACE, JSON.stringify([...unsent]));

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
  call("leave");
  port?.close();
  waiting.abort();
  waiting = new AbortController();
  unanswered = 0;
  status = { state: "connecting" };
  show(status, snapshot);
  ({ port } = new SharedWorker(WORKER, { type: "module", name: user }));
  port.onmessage = ({ data }) => receive(data);
  call("join", "general", tab);
  sendUnsent();
}

/** What could be there twice, or was refused, is a draft. */
function sendUnsent() {
  const drafts = [...unsent].filter(([, message]) => !isSentAgain(message));
  for (const [key] of drafts) unsent.delete(key);
  addDrafts(drafts.map(([, { text }]) => text));
  save();
  for (const [key, { text }] of unsent) call("send", text, key);
}

function receive(data) {
  unanswered = 0;
  // The browser releases the lock of the worker when that ends. Its process may have crashed.
  if (data.lock) navigator.locks.request(data.lock, { mode: "shared", signal: waiting.signal }, start).catch(() => {});
  if (data.settled) settle(data.settled, data.code);
  if (data.isLoggedOut) forget();
  if (!data.status) return;
  ({ status, snapshot } = data);
  show(status, snapshot);
}

function settle(key, code) {
  const message = unsent.get(key);
  if (!message) return;
  if (code) message.code = code;
  else unsent.delete(key);
  save();
}

/** Nothing is there for the next user. */
function forget() {
  unsent.clear();
  sessionStorage.clear();
  const error = { code: "unauthorized" };
  status = { state: "closed", error };
  snapshot = { ...snapshot, state: "left", error };
  show(status, snapshot);
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
    call("send", text, key);
  },
  resend: (key) => call("resend", key),
  discard: (key) => call("discard", key),
  typing: (isTyping) => call("typing", isTyping),
  history: () => call("history"),
  again: () => (status.error?.code === "unauthorized" ? location.assign("/login") : call("again")),
  async logOut() {
    const isUnsent = unsent.size > 0 || status.queued > 0;
    if (isUnsent && !confirm("Messages are not sent yet. Log out without them?")) return;
    call("close");
    const answer = await fetch("/logout", { method: "POST" });
    if (!answer.ok) throw new Error(`The backend answered ${answer.status}.`); // the session goes on
    call("loggedOut");
    forget();
    location.assign("/login");
  },
});

show({ state: "connecting" }, snapshot);
open();
setInterval(ping, PING_MS);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  call("check");
  ping();
});
addEventListener("beforeunload", (event) => unsent.size > 0 && event.preventDefault());
// A page that returns from the cache of the browser may have lost its lock there.
addEventListener("pageshow", ({ persisted }) => persisted && open());
