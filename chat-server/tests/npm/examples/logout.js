import { ChatClient, Unauthorized } from "roomcast";

export const chat = new ChatClient("wss://chat.example/ws", {
  token: async () => {
    const answer = await fetch("/chat-token", { cache: "no-store", signal: AbortSignal.timeout(10_000) });
    if (answer.status === 401) throw new Unauthorized("You have logged out.");
    if (!answer.ok) throw new Error(`The backend answered ${answer.status}.`); // is asked again
    return answer.text();
  },
});
chat.on("state", (status) => {
  if (status.state === "closed" && status.by === "no_token") location.assign("/login");
});

// The tabs of this browser have one session: a log-out in one is one in all.
const logouts = new BroadcastChannel("logout");
logouts.onmessage = leave;

function leave() {
  chat.close();
  location.assign("/login");
}

export async function logOut() {
  chat.close(); // first: it waits for nothing, so that a dead line does not matter
  const answer = await fetch("/logout", { method: "POST", signal: AbortSignal.timeout(10_000) });
  if (!answer.ok) throw new Error(`The backend answered ${answer.status}.`); // the session goes on
  logouts.postMessage("");
  leave();
}
