import { ChatClient } from "http://localhost:8080/web/chat-client.js";

const chat = new ChatClient("ws://localhost:8080/ws", { name: "Ann" });
chat.connect();

/** What a tab needs of an error, which loses its members when it is posted. */
const plain = (error) => {
  if (!error) return undefined;
  const { code, message, reason, until } = error;
  return { code, message, reason, until };
};

self.onconnect = ({ ports: [port] }) => {
  let room;
  const show = () => {
    const { state, error, messages, count } = room.snapshot;
    port.postMessage({
      connection: { state: chat.state, error: plain(chat.status.error) },
      room: { state, error: plain(error), count },
      messages: messages.slice(-100).map((message) => ({ ...message, error: plain(message.error) })),
    });
  };
  let end = () => {};
  const actions = {
    join(name) {
      actions.close();
      room = chat.room(name);
      room.on("change", show);
      end = chat.on("state", show);
      show();
    },
    send: (text) => room.send(text),
    resend: (key) => room.resend(key),
    discard: (key) => room.discard(key),
    tryAgain: () => room.join(),
    connect: () => chat.connect(),
    check: () => chat.check(),
    close() {
      end();
      room?.release();
    },
  };
  port.onmessage = ({ data: [action, detail] }) => actions[action](detail);
};
