import { ChatClient, Unauthorized } from "roomcast";

export const chat = new ChatClient("wss://chat.example/ws", {
  token: async () => {
    const answer = await fetch("/chat-token", { cache: "no-store" });
    if (answer.status === 401) throw new Unauthorized("You have logged out.");
    if (!answer.ok) throw new Error(`The backend answered ${answer.status}.`); // is asked again
    return answer.text();
  },
});
chat.on("state", (status) => {
  if (status.state === "closed" && status.error.code === "unauthorized") location.assign("/login");
});

export async function logOut() {
  chat.close(); // first: it waits for nothing, so that a dead line does not matter
  const answer = await fetch("/logout", { method: "POST" });
  if (!answer.ok) throw new Error(`The backend answered ${answer.status}.`); // the session goes on
  location.assign("/login");
}
