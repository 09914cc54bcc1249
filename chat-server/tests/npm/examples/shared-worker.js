import { ChatClient, Unauthorized } from "/roomcast/chat-client.js";

// The name of the worker is the id of its user: another user of this browser has another worker, for
// which the application gives no token of this user.
const chat = new ChatClient("wss://chat.example/ws", {
  token: async () => {
    const answer = await fetch(`/chat-token?user=${self.name}`, { cache: "no-store" });
    if (answer.status === 401) throw new Unauthorized();
    if (!answer.ok) throw new Error(`The backend answered ${answer.status}.`); // is asked again
    return answer.text();
  },
});

/** What a tab needs of an error, which loses its members when it is posted. */
const plain = (error) => error && { code: error.code, reason: error.reason, until: error.until };

self.onconnect = ({ ports: [port] }) => {
  let room;
  let length = 100;
  const leaving = new AbortController();
  const { signal } = leaving;

  const show = () => {
    const { error, messages, members, hasMore, ...rest } = room.snapshot;
    const shown = messages.slice(-length).map((message) => ({ ...message, error: plain(message.error) }));
    port.postMessage({
      status: { state: chat.state, error: plain(chat.status.error) },
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
      if (chat.state === "idle" || chat.state === "closed") chat.connect();
      room = chat.room(name);
      room.on("change", show, { signal });
      chat.on("state", show, { signal });
      signal.addEventListener("abort", () => room.release());
      // The tab holds this lock. The browser releases it when the tab is closed or has crashed.
      navigator.locks.request(tab, { signal }, actions.leave).catch(() => {});
      show();
    },
    leave: () => leaving.abort(),
    ping: () => port.postMessage({}),
    check: () => chat.check(),
    async send(message, key) {
      await room.send(message, { key }).catch(() => {}); // the message says that it has failed
      port.postMessage({ settled: key });
    },
    resend: (key) => room.resend(key),
    discard: (key) => room.discard(key),
    typing: (isTyping) => room.typing(isTyping),
    history() {
      length += 100;
      room.history().then(show, show);
    },
    again: () => (chat.state === "online" ? room.join() : chat.connect()),
    logOut: () => chat.close(),
  };
  port.onmessage = ({ data: [action, ...details] }) => actions[action](...details);
};
