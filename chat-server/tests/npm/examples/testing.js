import { strictEqual } from "node:assert";
import { test } from "node:test";

import { ChatClient } from "roomcast";
import { TestServer } from "roomcast/testing";

test("a message that was lost with the connection is sent again, once", async (t) => {
  const server = new TestServer();
  const chat = new ChatClient("ws://chat.example/ws", { WebSocket: server.WebSocket, backoffBaseMs: 10 });
  t.after(() => chat.close());
  chat.connect();
  const room = chat.room("general");
  await server.settled();

  server.say("general", "Bob", "Hello");
  await server.settled();
  // The line dies, and the message on it.
  server.isSilent = true;
  const sent = room.send("Hello Bob");
  await server.settled();
  strictEqual(room.snapshot.messages.at(-1).state, "sending");

  server.isSilent = false;
  server.drop();
  await sent;
  await server.settled();
  const texts = room.snapshot.messages.map(({ message }) => message);
  strictEqual(texts.join(), "Hello,Hello Bob");
});
