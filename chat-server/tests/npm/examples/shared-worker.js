import { ChatClient, Unauthorized } from "/roomcast/chat-client.js";
import { SEND_TIMEOUT_MS } from "./unsent.js";

// The name of the worker is the id of its user: another user of this browser has another worker, for
// which the application gives no token of this user.
const chat = new ChatClient("wss://chat.example/ws", {
  token: async () => {
    const signal = AbortSignal.timeout(10_000);
    const answer = await fetch(`/chat-token?user=${encodeURIComponent(self.name)}`, { cache: "no-store", signal });
    if (answer.status === 401) throw new Unauthorized();
    if (!answer.ok) throw new Error(`The backend answered ${answer.status}.`); // is asked again
    return answer.text();
  },
  sendTimeoutMs: SEND_TIMEOUT_MS,
});
/** The lock and the channel of this user's log-out: the other users of the browser go on. */
const LOG_OUT = `logout ${self.name}`;

/** Connects, though not while a tab logs out: the session is still there then. */
const connect = () => navigator.locks.request(LOG_OUT, { mode: "shared" }, () => void chat.connect());

let isLoggingOut = false;

/** Disconnects until the tab that logs out knows the outcome, and releases its lock. */
function beginLogOut() {
  isLoggingOut = true;
  chat.close();
  showAll();
  navigator.locks.request(LOG_OUT, { mode: "shared" }, () => {
    isLoggingOut = false;
    showAll();
  });
}

/** The tabs of a user have one session. */
const logouts = new BroadcastChannel(LOG_OUT);
logouts.onmessage = () => chat.close();

/** A lock that the browser releases when this worker ends: its tabs wait for it. */
const lock = crypto.randomUUID();
const isLocked = new Promise((resolve) => {
  navigator.locks.request(lock, () => {
    resolve();
    return new Promise(() => {});
  });
});

/** By port of a tab: what shows it the status and its room. */
const tabs = new Map();
const showAll = () => tabs.forEach((show) => show());
const post = (data) => tabs.forEach((show, port) => port.postMessage(data));

/** Keys of messages on their way: a tab that was loaded again sends its messages again. */
const sending = new Set();

/** Tells the tabs what became of a message: the one that wrote it may have been loaded again. */
async function settle(key, sent) {
  sending.add(key);
  const code = await sent.then(() => null, (error) => error.code);
  sending.delete(key);
  post({ settled: key, code });
}

/** What a tab needs of an error, which loses its members when it is posted. */
const plain = (error) => error && { code: error.code, reason: error.reason, until: error.until };

self.onconnect = ({ ports: [port] }) => {
  let room;
  let length = 100;
  const leaving = new AbortController();
  const { signal } = leaving;
  tabs.set(port, () => {});
  isLocked.then(() => port.postMessage({ lock }));

  const show = () => {
    const { error, messages, members, hasMore, ...rest } = room.snapshot;
    const shown = messages.slice(-length).map((message) => ({ ...message, error: plain(message.error) }));
    port.postMessage({
      status: {
        state: isLoggingOut ? "logging_out" : chat.state,
        by: chat.status.by,
        queued: chat.queued,
        error: plain(chat.status.error),
      },
      snapshot: {
        ...rest,
        error: plain(error),
        messages: shown,
        members: members.slice(0, 100),
        hasMore: hasMore || shown.length < messages.length,
      },
    });
  };

  const actions = {
    join(name, tab) {
      if (chat.state === "idle" || chat.state === "closed") connect();
      room = chat.room(name);
      tabs.set(port, show);
      room.on("change", show, { signal });
      chat.on("state", show, { signal });
      signal.addEventListener("abort", () => room.release());
      // The tab holds this lock. The browser releases it when the tab is closed or has crashed.
      navigator.locks.request(tab, { signal }, actions.leave).catch(() => {});
      show();
    },
    leave() {
      tabs.delete(port);
      leaving.abort();
    },
    ping: () => port.postMessage({}),
    check: () => chat.check(),
    send: (message, key) => sending.has(key) || settle(key, room.send(message, { key })),
    resend: (key) => sending.has(key) || settle(key, room.resend(key)),
    /** The tab shows the text again, unless the message is still on its way. */
    toDraft(key) {
      if (sending.has(key)) return;
      room.discard(key);
      port.postMessage({ draft: key });
    },
    discard(key) {
      room.discard(key);
      post({ settled: key });
    },
    typing: (isTyping) => room.typing(isTyping),
    history() {
      length += 100;
      room.history().then(show, show);
    },
    again: () => (chat.state === "online" ? room.join() : connect()),
    logOut: beginLogOut,
  };
  port.onmessage = ({ data: [action, ...details] }) => actions[action](...details);
};
