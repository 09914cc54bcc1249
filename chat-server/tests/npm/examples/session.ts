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

export async function login(name: string): Promise<void> {
  await fetch("/login", { method: "POST", body: new URLSearchParams({ name }), signal: AbortSignal.timeout(10_000) });
}

/** Whether the backend has ended the session. */
export async function logout(): Promise<boolean> {
  const request = fetch("/logout", { method: "POST", signal: AbortSignal.timeout(10_000) });
  const answer = await request.catch(() => undefined);
  return answer?.ok ?? false;
}
