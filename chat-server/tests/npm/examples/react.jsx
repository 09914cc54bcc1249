import { ChatClient } from "roomcast";
import { ChatProvider, useConnection, useMembers, useRoom, useTyping } from "roomcast/react";

const client = new ChatClient("wss://chat.example/ws", { name: "Ann" });

export function App() {
  return (
    <ChatProvider client={client}>
      <Room name="general" />
    </ChatProvider>
  );
}

function Room({ name }) {
  const room = useRoom(name, { history: 50 });
  const { count } = useMembers(name);
  const { typists, typing } = useTyping(name);
  const connection = useConnection();
  return (
    <>
      <p>{connection.state}, {count} here</p>
      <ol>
        {room.messages.map((message) => (
          <li key={message.id}>{message.user.name}: {message.message}</li>
        ))}
      </ol>
      <p>{typists.map((user) => user.name).join(", ")}</p>
      <input onChange={() => typing(true)} />
      <button onClick={() => room.send("Hello")}>Say hello</button>
    </>
  );
}
