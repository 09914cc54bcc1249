// @vitest-environment jsdom
import { act, cleanup, fireEvent, render, screen } from "@testing-library/react";
import { ChatClient } from "roomcast";
import { ChatProvider } from "roomcast/react";
import { TestServer } from "roomcast/testing";
import { afterEach, expect, test } from "vitest";

import { Room } from "./App";

afterEach(cleanup);

test("a message that was refused is sent again", async () => {
  const server = new TestServer();
  const client = new ChatClient("ws://chat.example/ws", { WebSocket: server.WebSocket, token: "Ann" });
  render(
    <ChatProvider client={client}>
      <Room name="general" />
    </ChatProvider>,
  );
  await screen.findByText("1 here: Ann");

  // What the server does by itself belongs into `act`.
  await act(async () => server.say("general", "Bob", "Hello"));
  screen.getByText("Bob: Hello");

  server.refuse("send", "rejected", { message: "No swearing." });
  fireEvent.change(screen.getByLabelText("Message"), { target: { value: "Darn" } });
  fireEvent.click(screen.getByText("Send"));
  await screen.findByText("No swearing.");
  fireEvent.click(screen.getByText("Send again"));
  await screen.findByText("Ann: Darn");
  expect(screen.queryByText("No swearing.")).toBeNull();
  client.close();
});
