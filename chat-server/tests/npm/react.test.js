// The hooks, in a DOM without a browser, with a server in memory.

import { deepStrictEqual, match, rejects, strictEqual, throws } from "node:assert";
import { afterEach, beforeEach, test } from "node:test";

import { JSDOM } from "jsdom";
import { Activity, StrictMode, act, createElement as h, useEffect, useLayoutEffect } from "react";
import { renderToString } from "react-dom/server";
import { ChatClient } from "roomcast";
import { ChatProvider, useConnection, useMembers, useRoom, useTyping } from "roomcast/react";
import { TestServer } from "roomcast/testing";

const dom = new JSDOM("<div id=root></div>");
const { document, navigator } = dom.window;
const globals = { window: dom.window, document, navigator, IS_REACT_ACT_ENVIRONMENT: true };
for (const [name, value] of Object.entries(globals)) {
  Object.defineProperty(globalThis, name, { value, configurable: true });
}
const { createRoot } = await import("react-dom/client");

let server;
let client;
let root;
/** How often each component was rendered. */
let renders;
/** The latest value of `useRoom`. */
let room;
/** Why sends of effects were refused. */
let refused;

beforeEach(() => {
  server = new TestServer();
  client = new ChatClient("ws://chat.example/ws", { WebSocket: server.WebSocket, name: "Ann" });
  root = createRoot(document.querySelector("#root"));
  renders = { Members: 0 };
  refused = [];
});
afterEach(async () => {
  await act(() => root.unmount());
  client.close();
});

function Room({ name }) {
  room = useRoom(name, { history: 10 });
  const { state } = useConnection();
  const lines = room.messages.map(({ user, message, state }) => `${user?.name}: ${message} ${state}`);
  return h("p", { id: "room" }, [room.state, state, ...lines].join("|"));
}

function Members({ name }) {
  renders.Members += 1;
  const { members, count } = useMembers(name);
  const { typists } = useTyping(name);
  return h("p", { id: "members" }, `${count} ${members.map(({ name }) => name)} ${typists.map(({ name }) => name)}`);
}

function app(...children) {
  return h(StrictMode, null, h(ChatProvider, { client }, ...children));
}

const tick = () => act(() => new Promise((resolve) => setTimeout(resolve, 5)));
const shown = (id) => document.querySelector(`#${id}`).textContent;

async function render(...children) {
  await act(() => root.render(app(...children)));
  await tick();
}

test("a room is shown, and what is sent there", async () => {
  server.say("r", "Bob", "before");
  await render(h(Room, { name: "r" }));
  strictEqual(shown("room"), "joined|online|Bob: before received");
  server.say("r", "Bob", "after");
  await tick();
  await act(async () => {
    await room.send("mine");
  });
  await tick();
  strictEqual(shown("room"), "joined|online|Bob: before received|Bob: after received|Ann: mine received");
});

test("StrictMode and several components join once, and the last one leaves", async () => {
  await render(h(Room, { name: "r" }), h(Members, { name: "r" }));
  deepStrictEqual([sent("join").length, sent("leave").length], [1, 0]);
  await render(h(Room, { name: "r" }));
  deepStrictEqual([sent("join").length, sent("leave").length], [1, 0]);
  await render();
  deepStrictEqual([sent("join").length, sent("leave").length], [1, 1]);
  deepStrictEqual(client.rooms, []);
});

test("another name is another room", async () => {
  server.say("a", "Bob", "in a");
  server.say("b", "Bob", "in b");
  await render(h(Room, { name: "a" }));
  await render(h(Room, { name: "b" }));
  strictEqual(shown("room"), "joined|online|Bob: in b received");
  deepStrictEqual(client.rooms, ["b"]);
});

test("members and typists are rendered when they change, and not for each message", async () => {
  await render(h(Members, { name: "r" }));
  server.join("r", "Bob");
  server.typing("r", "Bob");
  await tick();
  strictEqual(shown("members"), "2 Ann,Bob Bob");
  const before = renders.Members;
  server.say("r", "Cid", "hi");
  await tick();
  strictEqual(renders.Members, before);
});

test("the connection is shown", async () => {
  await render(h(Room, { name: "r" }));
  server.isReachable = false;
  await act(async () => server.drop());
  await tick();
  match(shown("room"), /^joined\|(waiting|connecting)/);
  await act(async () => client.close());
  match(shown("room"), /^left\|closed/);
});

test("a server renders an empty room, and joins nothing", () => {
  const html = renderToString(app(h(Room, { name: "r" }), h(Members, { name: "r" })));
  strictEqual(html, '<p id="room">joining|idle</p><p id="members">0  </p>');
  strictEqual(server.connections, 0);
  deepStrictEqual(client.rooms, []);
});

/** Sends in an effect that runs before those of the component whose room it is. */
function Greeter({ send, useEffect, words }) {
  useEffect(() => {
    send(words, { key: words }).catch(({ code }) => refused.push(code));
  }, [send]);
  return null;
}

function Greeted({ name }) {
  room = useRoom(name);
  useLayoutEffect(() => {
    room.send("own", { key: "own" });
  }, []);
  return [
    h(Greeter, { key: 1, send: room.send, useEffect, words: "passive" }),
    h(Greeter, { key: 2, send: room.send, useEffect: useLayoutEffect, words: "layout" }),
  ];
}

const texts = () => room.messages.map(({ message }) => message);
const sent = (type) => server.received.filter((frame) => frame.type === type);

test("layout effects, and effects of children, send", async () => {
  await act(() => root.render(h(ChatProvider, { client }, h(Greeted, { name: "r" }))));
  await tick();
  deepStrictEqual(texts(), ["layout", "own", "passive"]);
  deepStrictEqual([sent("join").length, sent("leave").length], [1, 0]);
});

test("StrictMode repeats effects, and a message with a key is there once", async () => {
  await render(h(Greeted, { name: "r" }));
  deepStrictEqual(texts(), ["layout", "own", "passive"]);
  deepStrictEqual([sent("join").length, sent("leave").length], [1, 0]);
});

test("a tree that is hidden leaves the room, and sends when it is shown again", async () => {
  const tree = (mode) => h(ChatProvider, { client }, h(Activity, { mode }, h(Greeted, { name: "r" })));
  await act(() => root.render(tree("hidden")));
  await tick();
  deepStrictEqual(client.rooms, []);
  await act(() => root.render(tree("visible")));
  await tick();
  await act(() => root.render(tree("hidden")));
  await tick();
  deepStrictEqual(client.rooms, []);
  await act(() => root.render(tree("visible")));
  await tick();
  // The keys are the same: the server knows them.
  deepStrictEqual([texts(), client.rooms, refused], [["layout", "own", "passive"], ["r"], []]);
});

test("a tree that is shown again joins with the options that it has then", async () => {
  const Limited = ({ history }) => h("p", null, useRoom("r", { history }).state);
  const tree = (mode, history) => app(h(Activity, { mode }, h(Limited, { history })));
  for (const [mode, history] of [["visible", 10], ["hidden", 20], ["visible", 20]]) {
    await act(() => root.render(tree(mode, history)));
    await tick();
  }
  deepStrictEqual(sent("join").map(({ history }) => history), [10, 20]);
});

test("what is sent after the unmount, or after another name, is refused", async () => {
  await render(h(Room, { name: "a" }));
  const { send } = room;
  await render(h(Room, { name: "b" }));
  await rejects(send("late"), { code: "not_in_room" });
  const { send: sendToB } = room;
  await render();
  await rejects(sendToB("late"), { code: "not_in_room" });
  deepStrictEqual([sent("send"), client.rooms], [[], []]);
});

test("the first hook with options decides, wherever it is in the tree", async () => {
  for (let count = 0; count < 60; count += 1) server.say("r", "Bob", String(count));
  await render(h(Members, { name: "r" }), h(Room, { name: "r" }));
  deepStrictEqual([room.messages.length, sent("join")[0].history], [10, 10]);
  // What is mounted later takes the room as it is.
  const Late = ({ history }) => h("p", { id: "late" }, useRoom("r", { history }).messages.length);
  const late = (history) => render(h(Members, { name: "r" }), h(Room, { name: "r" }), h(Late, { history }));
  await late(20);
  strictEqual(shown("late"), "10");
  await late(30);
  strictEqual(shown("late"), "10");
  // The options are those of what is mounted.
  await render();
  await render(h(Late, { history: 0 }));
  strictEqual(shown("late"), "0");
  await render();
  await render(h(Members, { name: "r" }));
  deepStrictEqual(sent("join").map(({ history }) => history), [10, 0, 50]);
});

test("other options do not empty the room", async () => {
  server.say("r", "Bob", "before");
  const counts = [];
  const Counter = ({ history }) => {
    counts.push(useRoom("r", { history }).messages.length);
    return null;
  };
  await render(h(Counter, { history: 10 }));
  counts.length = 0;
  await render(h(Counter, { history: 20 }));
  deepStrictEqual(new Set(counts), new Set([1]));
});

test("a hook without a provider, and an action while React renders, say so", () => {
  throws(() => renderToString(h(Room, { name: "r" })), /ChatProvider/);
  renderToString(app(h(Room, { name: "r" })));
  throws(() => room.send("early"), /not mounted/);
  deepStrictEqual(client.rooms, []);
});
