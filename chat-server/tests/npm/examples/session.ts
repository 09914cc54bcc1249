import { ChatClient, Unauthorized } from "roomcast";

/** What the application sends as `data` of its messages. */
export type Data = { mood?: string };

/** A client of the user who is logged in. It does nothing before it is connected. */
export function createChat(): ChatClient<Data> {
  return new ChatClient<Data>("wss://chat.example/ws", { token });
}

async function token(): Promise<string> {
  const answer = await fetch("/chat-token", { cache: "no-store", signal: AbortSignal.timeout(10_000) });
  if (answer.status === 401) throw new Unauthorized("Please log in.");
  if (!answer.ok) throw new Error(`The backend answered ${answer.status}.`); // is asked again
  return answer.text();
}

/** Whether the backend has logged the user in. */
export function login(name: string): Promise<boolean> {
  return post("/login", new URLSearchParams({ name }));
}

/** Whether the backend has ended the session. */
export function logout(): Promise<boolean> {
  return post("/logout", null);
}

/** Whether the answer comes in time, and is 2xx. */
async function post(path: string, body: URLSearchParams | null): Promise<boolean> {
  const request = fetch(path, { method: "POST", body, signal: AbortSignal.timeout(10_000) });
  const answer = await request.catch(() => undefined);
  return answer?.ok ?? false;
}
