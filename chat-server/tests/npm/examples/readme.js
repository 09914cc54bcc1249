import { ChatClient } from "roomcast";

const chat = new ChatClient("wss://chat.example/ws", { token: () => fetch("/chat-token").then((r) => r.text()) });
chat.connect();

const room = chat.room("general");
room.on("change", () => console.log(room.snapshot.messages.map(({ user, message }) => `${user.name}: ${message}`)));
await room.send("Hello");
room.release();
