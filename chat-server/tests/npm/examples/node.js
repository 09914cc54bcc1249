import { ChatClient } from "roomcast";
import { WebSocket } from "ws";

export const chat = new ChatClient("ws://localhost:8080/ws", { name: "Echo", WebSocket });
