import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { ChatClient, ChatError, Unauthorized } from "roomcast";
import { ChatProvider } from "roomcast/react";

import { App, type Attachment } from "./App";

const url = new URLSearchParams(location.search).get("server") ?? "ws://localhost:8080/ws";
const token = async (): Promise<string> => {
  const answer = await fetch("/chat-token");
  if (answer.status === 401) throw new Unauthorized();
  if (!answer.ok) throw new ChatError("internal", `The backend answered ${answer.status}.`);
  return answer.text();
};
const isGuest = new URLSearchParams(location.search).has("guest");
const client = new ChatClient<Attachment>(url, isGuest ? { name: "Ann" } : { token });

createRoot(document.querySelector("#root")!).render(
  <StrictMode>
    <ChatProvider client={client}>
      <App />
    </ChatProvider>
  </StrictMode>,
);
