// @vitest-environment jsdom

import { flushPromises, mount, type VueWrapper } from "@vue/test-utils";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import App from "../examples/App.vue";
import { Backend, LOGIN_FAILURES } from "./backend";

let backend: Backend;
let page: VueWrapper;
const warn = vi.spyOn(console, "warn");

beforeEach(async () => {
  backend = new Backend();
  warn.mockClear();
  page = mount(App);
  await flushPromises();
});
afterEach(async () => {
  page.unmount();
  await flushPromises();
  expect(backend.server.connections).toBe(0);
  vi.unstubAllGlobals();
  expect(warn.mock.calls).toEqual([]);
});

async function click(label: string) {
  await page.findAll("button").find((button) => button.text() === label)!.trigger("click");
  await flushPromises();
}

async function submit(label: string, text: string) {
  await page.get(`input[aria-label=${label}]`).setValue(text);
  await page.get("form").trigger("submit");
  await flushPromises();
}

const rows = () => page.findAll("li").map((row) => row.text());

test("who has no session logs in, and out, and another user sees nothing of the first one", async () => {
  expect(page.get("[role=alert]").text()).toBe("Please log in.");
  await submit("Name", "Ann");
  expect(page.get("[role=status]").text()).toBe("Connected");
  await submit("Message", "Hello");
  backend.server.refuse("send", "rejected", { message: "No swearing." });
  await submit("Message", "Darn");
  expect(page.get("em").text()).toBe("No swearing.");

  await click("Log out");
  expect([backend.server.connections, page.find("[role=alert]").exists()]).toEqual([0, false]);
  await submit("Name", "Bob");
  expect(rows()).toEqual(["Ann: Hello"]);
  await submit("Message", "Hi");
  expect(rows()).toEqual(["Ann: Hello", "Bob: Hi"]);
  expect(backend.tokens).toEqual(["Ann", "Bob"]);
});

test.each(LOGIN_FAILURES)("a log-in that %s is shown, and the next one succeeds", async (_, answer) => {
  backend.atLogin = answer;
  await submit("Name", "Ann");
  expect(page.text()).toContain("You are not logged in. Try again.");
  expect(backend.tokens).toEqual([]);
  backend.atLogin = undefined;
  await submit("Name", "Ann");
  expect(page.get("[role=status]").text()).toBe("Connected");
});

test("failed messages are sent again, or discarded", async () => {
  await submit("Name", "Ann");
  for (const action of ["Send again", "Discard"]) {
    backend.server.refuse("send", "rejected", { message: "No swearing." });
    await submit("Message", action);
    await click(action);
  }
  expect(rows()).toEqual(["Ann: Send again"]);
});

test("members, typists, a lost connection and a kick are shown", async () => {
  await submit("Name", "Ann");
  backend.server.join("general", "Bob");
  backend.server.typing("general", "Bob");
  await flushPromises();
  expect(page.text()).toContain("2 here: Ann, Bob");
  expect(page.text()).toContain("Bob typing");
  backend.server.kick("general", "Ann", "Be nice.");
  await flushPromises();
  await click("Join again");
  expect(page.text()).toContain("2 here: Ann, Bob");
  backend.server.isReachable = false;
  backend.server.drop();
  await flushPromises();
  expect(page.get("[role=status]").text()).toBe("Connecting");
});
