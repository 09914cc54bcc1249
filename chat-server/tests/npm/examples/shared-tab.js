import { EMPTY, bind, show } from "./view.js";

/** Another one with each version of the worker: tabs of the version before keep theirs. */
const WORKER = "/shared-worker.js?version=1";
const PING_MS = 2_000;
const MOST_UNANSWERED = 3;

const { user } = document.body.dataset;
let port;
let tab;
let status;
let snapshot = EMPTY;
let unanswered = 0;
/** Messages that the worker has not sent yet, by key: its process may crash. */
const unsent = new Map();

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
  unanswered = 0;
  status = { state: "connecting" };
  show(status, snapshot);
  ({ port } = new SharedWorker(WORKER, { type: "module", name: user }));
  port.onmessage = ({ data }) => receive(data);
  call("join", "general", tab);
  for (const [key, text] of unsent) call("send", text, key);
}

function receive(data) {
  unanswered = 0;
  if (data.settled) unsent.delete(data.settled);
  if (!data.status) return;
  ({ status, snapshot } = data);
  show(status, snapshot);
}

/** No event says that the process of the worker has crashed, or that its script was not loaded. */
function ping() {
  if (!port) return;
  unanswered += 1;
  if (unanswered > MOST_UNANSWERED) start();
  else call("ping");
}

bind({
  send(text) {
    const key = crypto.randomUUID();
    unsent.set(key, text);
    call("send", text, key);
  },
  resend: (key) => call("resend", key),
  discard: (key) => call("discard", key),
  typing: (isTyping) => call("typing", isTyping),
  history: () => call("history"),
  again: () => (status.error?.code === "unauthorized" ? location.assign("/login") : call("again")),
  async logOut() {
    call("logOut");
    await fetch("/logout", { method: "POST" });
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
// A page that returns from the cache of the browser may have lost its lock there.
addEventListener("pageshow", ({ persisted }) => persisted && open());
