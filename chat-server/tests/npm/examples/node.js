import { ChatClient } from "roomcast";
import { WebSocket } from "ws";

const chat = new ChatClient("ws://localhost:8080/ws", { name: "Echo", WebSocket });
chat.on("message", ({ room, user, message }) => {
  if (user.id !== chat.user.id) chat.send(room, message); // its own messages arrive, too
});
chat.connect();
chat.join("general");
