import { ChatClient } from "roomcast";

const chat = new ChatClient("ws://localhost:8080/ws", { name: "Ann" });
const room = chat.room("general");
room.on("change", () => console.log(room.snapshot.messages));
chat.connect();
room.send("Hello");
