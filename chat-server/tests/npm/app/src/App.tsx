import { useState } from "react";
import type { ShownMessage, StateChange } from "roomcast";
import { useConnection, useMembers, useRoom, useTyping } from "roomcast/react";

export type Attachment = { url: string };

export function App() {
  const connection = useConnection();
  return (
    <>
      <p data-testid="connection">{inWords(connection)}</p>
      <Room name="general" />
    </>
  );
}

function Room({ name }: { name: string }) {
  const room = useRoom<Attachment>(name, { history: 20 });
  const { members, count } = useMembers(name);
  const { typists, typing } = useTyping(name);
  const [text, setText] = useState("");
  if (room.state === "left") return <button onClick={() => void room.join()}>{room.error?.message}</button>;
  const submit = () => {
    void room.send(text, { data: { url: "https://files.example/1" } });
    setText("");
  };
  return (
    <section>
      {room.hasMore && <button onClick={() => void room.history()}>Earlier</button>}
      <ol data-testid="log">
        {room.messages.map((message) => (
          <li key={message.id}>{line(message)}</li>
        ))}
      </ol>
      <p data-testid="typists">{typists.map((user) => user.name).join(", ")}</p>
      <p data-testid="members">
        {count}: {members.map((user) => user.name).join(", ")}
      </p>
      <form action={submit}>
        <input
          data-testid="text"
          value={text}
          onChange={(event) => {
            setText(event.target.value);
            typing(event.target.value !== "");
          }}
        />
        <button data-testid="send">Send</button>
      </form>
    </section>
  );
}

function line(message: ShownMessage<Attachment>): string {
  const url = message.data?.url ?? "";
  const why = message.state === "failed" ? ` (${message.error.code})` : "";
  return `${message.user.name}: ${message.message} ${url}${why}`;
}

/** Each state has what it needs, and a case that is missing does not compile. */
function inWords(connection: StateChange): string {
  switch (connection.state) {
    case "idle":
    case "connecting":
      return "Connecting";
    case "online":
      return "Connected";
    case "waiting":
      return `Reconnecting in ${connection.retryInMs} ms`;
    case "closed":
      return connection.by === "ban" ? `Banned: ${connection.message}` : connection.error.code;
  }
}
