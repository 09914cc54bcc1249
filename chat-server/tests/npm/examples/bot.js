import { ChatClient } from "roomcast";
import { WebSocket } from "ws";

const chat = new ChatClient(process.env.CHAT_URL, { name: "Echo", WebSocket });
chat.on("message", ({ room, user, message }) => {
  if (user.id !== chat.user.id) chat.send(room, `${user.name} said: ${message}`);
});
chat.on("state", ({ state, reason }) => console.error(state, reason ?? ""));
await chat.connect();
await chat.join("general");
