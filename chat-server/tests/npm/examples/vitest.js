import { ChatClient } from "roomcast";
import { TestServer } from "roomcast/testing";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

let server;
beforeEach(() => {
  vi.useFakeTimers();
  server = new TestServer();
  vi.stubGlobal("WebSocket", server.WebSocket);
});
afterEach(() => {
  server.close();
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

test("a message that a dead line has swallowed is sent over the next one", async () => {
  const chat = new ChatClient("ws://chat.example/ws");
  await chat.connect();
  await chat.join("general");

  server.isSilent = true;
  const sent = chat.send("general", "Hello");
  await vi.advanceTimersByTimeAsync(12_000);
  expect(chat.state).not.toBe("online");

  server.isSilent = false;
  await vi.advanceTimersByTimeAsync(15_000);
  expect(await sent).toMatchObject({ offset: 1 });
});
