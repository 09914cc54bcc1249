import { ChatClient } from "http://localhost:8080/web/chat-client.js";

const chat = new ChatClient("ws://localhost:8080/ws", { name: "Ann" });
chat.connect();

self.onconnect = ({ ports: [port] }) => {
  let leave = () => {};
  const actions = {
    join(name) {
      actions.close();
      const room = chat.room(name);
      const show = () => {
        const { messages, count } = room.snapshot;
        port.postMessage({ count, lines: messages.slice(-100).map(({ user, message }) => `${user.name}: ${message}`) });
      };
      const end = room.on("change", show);
      show();
      leave = () => {
        end();
        room.release();
      };
    },
    send: ({ room, text }) => chat.send(room, text),
    check: () => chat.check(),
    close() {
      leave();
      leave = () => {};
    },
  };
  port.onmessage = ({ data: [action, detail] }) => actions[action](detail);
};
