import { memo, useState } from "react";
import type { ChatClient, ShownMessage } from "roomcast";
import { ChatProvider, type RoomActions, useConnection, useMembers, useRoom, useTyping } from "roomcast/react";

import { createChat, type Data, login, logout } from "./session";

/** Each login has a client and a page of its own, so that nothing of one user is left for the next. */
export function App() {
  const [{ client, login: number }, setSession] = useState(() => ({ client: createChat(), login: 0 }));
  const onLogin = async (name: string) => {
    const isLoggedIn = await login(name);
    if (isLoggedIn) setSession({ client: createChat(), login: number + 1 });
    return isLoggedIn;
  };
  return (
    <ChatProvider client={client} key={number}>
      <Page client={client} onLogin={onLogin} />
    </ChatProvider>
  );
}

type PageProps = { client: ChatClient<Data>; onLogin: (name: string) => Promise<boolean> };

function Page({ client, onLogin }: PageProps) {
  const connection = useConnection();
  const [name, setName] = useState("");
  const [failure, setFailure] = useState("");
  const onLogout = async () => {
    client.close(); // first: it waits for nothing
    if (!(await logout())) setFailure("It is not known whether you are logged out. Load the page again.");
  };
  if (connection.state === "closed") {
    return (
      <form
        onSubmit={async (event) => {
          event.preventDefault();
          if (!(await onLogin(name))) setFailure("You are not logged in. Try again.");
        }}
      >
        {connection.code !== 1000 && <p role="alert">{connection.error.message}</p>}
        {failure && <p role="alert">{failure}</p>}
        <input aria-label="Name" value={name} onChange={(event) => setName(event.target.value)} />
        <button>Log in</button>
      </form>
    );
  }
  return (
    <>
      <p role="status">{connection.state === "online" ? "Connected" : "Connecting"}</p>
      <button onClick={onLogout}>Log out</button>
      <Room key="general" name="general" />
    </>
  );
}

export function Room({ name }: { name: string }) {
  const room = useRoom<Data>(name, { history: 50, keep: 1_000 });
  if (room.state === "left") {
    return (
      <p role="alert">
        {room.error?.message} <button onClick={() => room.join()}>Join again</button>
      </p>
    );
  }
  return (
    <>
      <Members name={name} />
      {room.hasMore && (
        <button disabled={room.isLoading} onClick={() => room.history()}>
          Earlier messages
        </button>
      )}
      <ol>
        {room.messages.map((message) => (
          <Row key={message.id} message={message} resend={room.resend} discard={room.discard} />
        ))}
      </ol>
      <Composer name={name} send={room.send} />
    </>
  );
}

type RowProps = { message: ShownMessage<Data> } & Pick<RoomActions<Data>, "resend" | "discard">;

const Row = memo(function Row({ message, resend, discard }: RowProps) {
  return (
    <li>
      {message.user.name}: {message.message}
      {message.state === "failed" && (
        <>
          <em>{message.error.message}</em>
          <button onClick={() => resend(message.key)}>Send again</button>
          <button onClick={() => discard(message.key)}>Discard</button>
        </>
      )}
    </li>
  );
});

function Members({ name }: { name: string }) {
  const { members, count } = useMembers(name);
  return (
    <p>
      {count} here: {members.map((user) => user.name).join(", ")}
    </p>
  );
}

function Composer({ name, send }: { name: string } & Pick<RoomActions<Data>, "send">) {
  const { typists, typing } = useTyping(name);
  const [text, setText] = useState("");
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        send(text.trim(), { data: { mood: "good" } });
        setText("");
        typing(false);
      }}
    >
      {typists.length > 0 && <p>{typists.map((user) => user.name).join(", ")} typing</p>}
      <input
        aria-label="Message"
        value={text}
        onChange={(event) => {
          setText(event.target.value);
          typing(event.target.value !== "");
        }}
      />
      <button disabled={text.trim() === ""}>Send</button>
    </form>
  );
}
