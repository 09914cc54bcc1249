// The composables, in a DOM without a browser, with a server in memory.

import { deepStrictEqual, match, rejects, strictEqual, throws } from "node:assert";
import { afterEach, beforeEach, test } from "node:test";

import { JSDOM } from "jsdom";
import { ChatClient } from "roomcast";
import { TestServer } from "roomcast/testing";

// Vue takes the DOM when it is loaded.
const { window } = new JSDOM("<div id=root></div>");
const { document, Node, Element, HTMLElement, SVGElement, MathMLElement } = window;
Object.assign(globalThis, { window, document, Node, Element, HTMLElement, SVGElement, MathMLElement });
const { KeepAlive, createApp, createSSRApp, h, nextTick, onMounted, ref, shallowRef, watch } = await import("vue");
const { renderToString } = await import("vue/server-renderer");
const { provideChat, useChat, useConnection, useMembers, useRoom, useTyping } = await import("roomcast/vue");

let server;
let client;
let app;
/** What the application shows. */
let content;
/** The latest value of `useRoom`. */
let room;
/** How often each component was rendered. */
let renders;

beforeEach(() => {
  server = new TestServer();
  client = new ChatClient("ws://chat.example/ws", { WebSocket: server.WebSocket, name: "Ann" });
  content = shallowRef(() => null);
  renders = { Members: 0 };
  app = undefined;
});
afterEach(() => {
  app?.unmount();
  client.close();
});

const Root = {
  setup() {
    provideChat(client);
    return () => content.value();
  },
};

const Room = {
  props: ["name"],
  setup(props) {
    room = useRoom(() => props.name, { history: 10 });
    const connection = useConnection();
    const line = ({ user, message, state }) => `${user.name}: ${message} ${state}`;
    const shown = () => [room.state.value, connection.value.state, ...room.messages.value.map(line)];
    return () => h("p", { id: "room" }, shown().join("|"));
  },
};

const Members = {
  props: ["name"],
  setup(props) {
    const { members, count } = useMembers(() => props.name);
    const { typists } = useTyping(() => props.name);
    const names = (users) => users.value.map(({ name }) => name).join();
    return () => {
      renders.Members += 1;
      return h("p", { id: "members" }, `${count.value} ${names(members)} ${names(typists)}`);
    };
  },
};

/** What follows has happened: the timer that leaves a room begins when Vue has rendered. */
async function settled() {
  await nextTick();
  await new Promise((resolve) => setTimeout(resolve, 5));
}

const shown = (id) => document.querySelector(`#${id}`).textContent;
const texts = () => room.messages.value.map(({ message }) => message);
const sent = (type) => server.received.filter((frame) => frame.type === type);

/** Shows something, in an application that is mounted with the first. */
async function show(render, component = Root) {
  content.value = render;
  if (!app) {
    app = createApp(component);
    app.config.warnHandler = (text) => {
      throw new Error(text);
    };
    app.mount("#root");
  }
  await settled();
}

test("a room is shown, and what is sent there", async () => {
  server.say("r", "Bob", "before");
  await show(() => h(Room, { name: "r" }));
  strictEqual(shown("room"), "joined|online|Bob: before received");
  await room.send("mine");
  await settled();
  strictEqual(shown("room"), "joined|online|Bob: before received|Ann: mine received");
});

test("several components join once, and the last one leaves", async () => {
  await show(() => [h(Room, { name: "r" }), h(Members, { name: "r" })]);
  await show(() => [h(Room, { name: "r" })]);
  deepStrictEqual([sent("join").length, sent("leave").length], [1, 0]);
  await show(() => null);
  deepStrictEqual([sent("join").length, sent("leave").length, client.rooms], [1, 1, []]);
});

test("a room is named by a text, a ref or a getter", async () => {
  const name = ref("a");
  const names = ["c", name, () => `${name.value}2`];
  const Named = { setup: () => (names.map((each) => useRoom(each)), () => null) };
  await show(() => h(Named));
  deepStrictEqual(client.rooms, ["c", "a", "a2"]);
  name.value = "b";
  await settled();
  deepStrictEqual(client.rooms, ["c", "b", "b2"]);
});

test("another name is another room, and nothing of the first one is rendered with it", async () => {
  server.say("a", "Bob", "in a");
  server.say("b", "Bob", "in b");
  const rendered = [];
  const Seen = {
    props: ["name"],
    setup(props) {
      room = useRoom(() => props.name);
      return () => rendered.push(`${props.name}: ${texts()}`) && null;
    },
  };
  await show(() => h(Seen, { name: "a" }));
  await show(() => h(Seen, { name: "b" }));
  deepStrictEqual([...new Set(rendered)], ["a: ", "a: in a", "b: ", "b: in b"]);
  deepStrictEqual(client.rooms, ["b"]);
});

test("a getter that gives the same name again changes nothing", async () => {
  const current = shallowRef({ name: "r" });
  const states = [];
  const Same = {
    setup() {
      const { state } = useRoom(() => current.value.name);
      watch(state, (now) => states.push(now), { flush: "sync" });
      return () => null;
    },
  };
  await show(() => h(Same));
  current.value = { name: "r" };
  await settled();
  deepStrictEqual([states, sent("join").length, sent("leave").length], [["joined"], 1, 0]);
});

test("members and typists are rendered when they change, and not for each message", async () => {
  await show(() => h(Members, { name: "r" }));
  server.join("r", "Bob");
  server.typing("r", "Bob");
  await settled();
  strictEqual(shown("members"), "2 Ann,Bob Bob");
  const before = renders.Members;
  server.say("r", "Cid", "hi");
  await settled();
  strictEqual(renders.Members, before);
});

test("the connection is shown, also by the component that provides the client", async () => {
  let own;
  const { setup } = Root;
  const Own = {
    setup() {
      const render = setup();
      own = useConnection();
      strictEqual(useChat(), client);
      return render;
    },
  };
  await show(() => h(Room, { name: "r" }), Own);
  server.isReachable = false;
  server.drop();
  await settled();
  match(shown("room"), /^joined\|(waiting|connecting)/);
  client.close();
  await settled();
  deepStrictEqual([shown("room"), own.value.state], ["left|closed", "closed"]);
});

test("a server renders an empty room, and joins nothing", async () => {
  content.value = () => [h(Room, { name: "r" }), h(Members, { name: "r" })];
  const html = await renderToString(createSSRApp(Root));
  strictEqual(html, '<!--[--><p id="room">joining|idle</p><p id="members">0  </p><!--]-->');
  deepStrictEqual([server.connections, client.rooms, client.state], [0, [], "idle"]);
});

test("what a server has rendered is hydrated without a mismatch, and joined", async () => {
  const own = () => h("div", [h(Room, { name: "r" }), h(Members, { name: "r" })]);
  const root = document.createElement("div");
  content.value = own;
  root.innerHTML = await renderToString(createSSRApp(Root));
  app = createSSRApp(Root);
  app.config.warnHandler = (text) => {
    throw new Error(text);
  };
  app.mount(root);
  await settled();
  strictEqual(root.textContent, "joined|online1 Ann ");
});

test("a composable without a provider, and an action during the setup, say so", () => {
  const mount = (setup) => {
    const bare = createApp({ setup });
    bare.config.warnHandler = () => {};
    bare.mount(document.createElement("div"));
  };
  throws(() => mount(() => useRoom("r")), /provideChat/);
  throws(() => mount(() => (provideChat(client), useRoom("r").send("early"))), /not mounted/);
  deepStrictEqual(client.rooms, []);
});

test("children that are mounted first send, and so does the component itself", async () => {
  const Child = { props: ["send"], setup: ({ send }) => (onMounted(() => send("child")), () => null) };
  const Own = {
    setup() {
      onMounted(() => room.send("own"));
      room = useRoom("r");
      return () => h(Child, { send: room.send });
    },
  };
  await show(() => h(Own));
  deepStrictEqual([texts(), sent("join").length, sent("leave").length], [["child", "own"], 1, 0]);
});

test("what is sent when the name changes goes to the room of that name", async () => {
  const name = ref("a");
  const Own = {
    setup() {
      watch(name, () => room.send("hello"));
      room = useRoom(name);
      return () => null;
    },
  };
  await show(() => h(Own));
  name.value = "b";
  await settled();
  deepStrictEqual(sent("send").map(({ room }) => room), ["b"]);
});

test("what is sent after the unmount is refused", async () => {
  await show(() => h(Room, { name: "r" }));
  await show(() => null);
  await rejects(room.send("late"), { code: "not_in_room" });
  deepStrictEqual([sent("send"), client.rooms], [[], []]);
});

test("the first composable with options decides, also of a room that follows", async () => {
  for (const name of ["r", "s"]) {
    for (let count = 0; count < 60; count += 1) server.say(name, "Bob", String(count));
  }
  await show(() => [h(Members, { name: "r" }), h(Room, { name: "r" })]);
  await show(() => [h(Members, { name: "s" }), h(Room, { name: "s" })]);
  deepStrictEqual(sent("join").map(({ history }) => history), [10, 10]);
  await show(() => h(Members, { name: "r" }));
  strictEqual(sent("join")[2].history, 50);
});

test("a component that KeepAlive has deactivated leaves the room, and joins it again", async () => {
  server.say("r", "Bob", "hi");
  const tree = (is) => () => h(KeepAlive, () => (is ? h(Room, { name: "r" }) : null));
  await show(tree(true));
  deepStrictEqual([texts(), client.rooms], [["hi"], ["r"]]);
  await show(tree(false));
  deepStrictEqual(client.rooms, []);
  server.say("r", "Bob", "ho");
  await show(tree(true));
  deepStrictEqual([texts(), client.rooms], [["hi", "ho"], ["r"]]);
});
