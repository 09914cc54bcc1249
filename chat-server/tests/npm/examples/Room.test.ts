// @vitest-environment jsdom
import { flushPromises, mount } from "@vue/test-utils";
import { ChatClient } from "roomcast";
import { TestServer } from "roomcast/testing";
import { provideChat } from "roomcast/vue";
import { expect, test } from "vitest";
import { h } from "vue";

import Room from "./Room.vue";

test("a message that was refused is sent again", async () => {
  const server = new TestServer();
  const client = new ChatClient("ws://chat.example/ws", { WebSocket: server.WebSocket, token: "Ann" });
  const page = mount({
    setup() {
      provideChat(client);
      return () => h(Room, { name: "general" });
    },
  });
  await flushPromises();
  server.say("general", "Bob", "Hello");
  await flushPromises();
  expect(page.get("ol").text()).toBe("Bob: Hello");

  server.refuse("send", "rejected", { message: "No swearing." });
  await page.get("input").setValue("Darn");
  await page.get("form").trigger("submit");
  await flushPromises();
  expect(page.get("em").text()).toBe("No swearing.");
  await page.get("li button").trigger("click");
  await flushPromises();
  expect(page.findAll("li").map((row) => row.text())).toEqual(["Bob: Hello", "Ann: Darn"]);
  page.unmount();
  client.close();
});
