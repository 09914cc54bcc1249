// @vitest-environment jsdom

import { act, cleanup, fireEvent, render, screen } from "@testing-library/react";
import { StrictMode } from "react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { App } from "../examples/App";
import { Backend, LOGIN_FAILURES } from "./backend";

let backend: Backend;
const error = vi.spyOn(console, "error");

beforeEach(() => {
  backend = new Backend();
  error.mockClear();
  render(
    <StrictMode>
      <App />
    </StrictMode>,
  );
});
afterEach(async () => {
  // The client connects no more.
  if (screen.queryByText("Log out")) fireEvent.click(screen.getByText("Log out"));
  cleanup();
  vi.unstubAllGlobals();
  expect(error.mock.calls).toEqual([]);
});

async function login(name: string) {
  fireEvent.change(await screen.findByLabelText("Name"), { target: { value: name } });
  fireEvent.click(screen.getByText("Log in"));
  await screen.findByText("Connected");
  await screen.findByText(/^1 here/);
}

function send(text: string) {
  fireEvent.change(screen.getByLabelText("Message"), { target: { value: text } });
  fireEvent.click(screen.getByText("Send"));
}

test("who has no session logs in, and out, and another user sees nothing of the first one", async () => {
  await screen.findByText("Please log in.");
  await login("Ann");
  send("Hello");
  await screen.findByText("Ann: Hello");
  backend.server.refuse("send", "rejected", { message: "No swearing." });
  send("Darn");
  await screen.findByText("No swearing.");

  fireEvent.click(screen.getByText("Log out"));
  await screen.findByText("Log in");
  expect([backend.server.connections, screen.queryByRole("alert")]).toEqual([0, null]);
  await login("Bob");
  screen.getByText("Ann: Hello");
  expect(screen.queryByText("No swearing.")).toBeNull();
  send("Hi");
  await screen.findByText("Bob: Hi");
  expect(backend.tokens).toEqual(["Ann", "Bob"]);
});

test.each(LOGIN_FAILURES)("a log-in that %s is shown, and the next one succeeds", async (_, answer) => {
  backend.atLogin = answer;
  fireEvent.click(await screen.findByText("Log in"));
  await screen.findByText("You are not logged in. Try again.");
  expect(backend.tokens).toEqual([]);
  backend.atLogin = undefined;
  await login("Ann");
});

test("failed messages are sent again, or discarded", async () => {
  await login("Ann");
  for (const action of ["Send again", "Discard"]) {
    backend.server.refuse("send", "rejected", { message: "No swearing." });
    send(action);
    await screen.findByText("No swearing.");
    await act(async () => fireEvent.click(screen.getByText(action)));
  }
  await screen.findByText("Ann: Send again");
  expect(screen.queryByText("Ann: Discard")).toBeNull();
});

test("members, typists, a lost connection and a kick are shown", async () => {
  await login("Ann");
  await act(async () => backend.server.join("general", "Bob"));
  screen.getByText("2 here: Ann, Bob");
  await act(async () => backend.server.typing("general", "Bob"));
  screen.getByText("Bob typing");
  await act(async () => backend.server.kick("general", "Ann", "Be nice."));
  fireEvent.click(screen.getByText("Join again"));
  await screen.findByText("2 here: Ann, Bob");
  backend.server.isReachable = false;
  await act(async () => backend.server.drop());
  screen.getByText("Connecting");
});
