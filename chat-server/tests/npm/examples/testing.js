import { strictEqual } from "node:assert";
import { test } from "node:test";

import { ChatClient } from "roomcast";
import { TestServer } from "roomcast/testing";

/** All that the server sends has arrived. */
const settled = () => new Promise((resolve) => setImmediate(resolve));

test("a message that was lost with the connection is sent again, once", async () => {
  const server = new TestServer();
  const chat = new ChatClient("ws://chat.example/ws", { WebSocket: server.WebSocket, backoffBaseMs: 0 });
  chat.connect();
  const room = chat.room("general");
  await settled();

  server.say("general", "Bob", "Hello");
  server.loseAnswer("send");
  const sent = room.send("Hello Bob");
  await settled();
  server.drop(1006);
  await sent;
  await settled();

  const texts = room.snapshot.messages.map(({ message }) => message);
  strictEqual(texts.join(), "Hello,Hello Bob");
  chat.close();
});
