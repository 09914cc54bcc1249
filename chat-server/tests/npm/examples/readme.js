import { ChatClient, Unauthorized } from "roomcast";

async function token() {
  const answer = await fetch("/chat-token", { cache: "no-store", signal: AbortSignal.timeout(10_000) });
  if (answer.status === 401) throw new Unauthorized();
  if (!answer.ok) throw new Error(`The backend answered ${answer.status}.`); // is asked again
  return answer.text();
}

const chat = new ChatClient("wss://chat.example/ws", { token });
chat.connect();

const room = chat.room("general");
room.on("change", () => console.log(room.snapshot.messages.map(({ user, message }) => `${user.name}: ${message}`)));
room.send("Hello"); // in the room's messages at once; a failure is shown there
