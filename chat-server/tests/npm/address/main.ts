// The module of a server, with the types of the package.

import { ChatClient, type StateChange } from "http://localhost:8080/web/chat-client.js";

const chat = new ChatClient<{ mood: string }>("ws://localhost:8080/ws", { name: "Ann" });
chat.on("state", (status: StateChange) => console.log(status.state));
chat.on("message", ({ data }) => console.log(data?.mood.length));
// @ts-expect-error a name is a text.
chat.rename(5);
