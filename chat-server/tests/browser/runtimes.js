// What the module does with a WebSocket, of whatever kind: runtimes.rs runs each scenario under
// Node and in Chromium, with `ChatClient`, `WebSocket` (undefined: that of the runtime), and the
// addresses of a `server`, of a `proxy` before it, and of `faults`, where nothing is a WebSocket.

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const codeOf = (promise) => promise.then(() => "none", (error) => error.code);
const order = (path) => fetch(`${faults}/${path}`, { mode: "no-cors" });

async function until(condition) {
  const deadline = Date.now() + 10_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`never: ${condition}`);
    await pause(5);
  }
}

/** A client, and the states that it was in. */
function client(url, options) {
  const chat = new ChatClient(url, { WebSocket, name: "Ann", backoffBaseMs: 10, backoffCapMs: 50, ...options });
  const states = [];
  chat.on("state", ({ state }) => states.push(state));
  return { chat, states };
}

async function member(options) {
  const { chat, states } = client(proxy, options);
  await chat.connect();
  await chat.join("r");
  return { chat, states };
}

/** As a device does that sleeps: timers are due, and what was received is not read yet. */
function sleep(ms) {
  const until = Date.now() + ms;
  while (Date.now() < until);
}

/** How often it connects to an address where nothing is, before ten seconds are over. */
async function attemptsAt(url) {
  const { chat, states } = client(url);
  const attempts = () => states.filter((state) => state === "connecting").length;
  const begin = Date.now();
  const connected = codeOf(chat.connect());
  await until(() => attempts() >= 3);
  chat.close();
  const isQuick = Date.now() - begin < 5_000;
  await pause(50);
  return { isQuick, connected: await connected, last: states.at(-1) };
}

const scenarios = {
  async talks() {
    const { chat } = client(server);
    const texts = [];
    chat.on("message", ({ message }) => texts.push(message));
    await chat.connect();
    await chat.join("talks");
    await chat.send("talks", "hi \u{1f44b}");
    await until(() => texts.length === 1);
    const { members } = await chat.members("talks");
    const { messages } = await chat.history("talks");
    await chat.rename("Bob");
    const { name } = chat.user;
    await until(() => chat.state === "online");
    await chat.send("talks", "again");
    await until(() => texts.length === 2);
    await chat.leave("talks");
    chat.close();
    return { texts, members: members.length, messages: messages.length, name };
  },

  async tries_again_where_nothing_is() {
    const outcomes = {};
    for (const path of ["503", "200", "empty", "garbage"]) {
      outcomes[path] = await attemptsAt(`${faults.replace("http", "ws")}/${path}`);
    }
    outcomes.refused = await attemptsAt(refused);
    return outcomes;
  },

  async closes_while_it_connects() {
    const outcomes = [];
    for (const url of [server, refused, `${faults.replace("http", "ws")}/silent`]) {
      for (const ms of [null, 0, 30]) {
        const { chat, states } = client(url);
        const connected = codeOf(chat.connect());
        if (ms !== null) await pause(ms);
        chat.close();
        const known = states.length;
        await pause(50);
        if (states.length > known) outcomes.push(`${url} ${ms}: ${states}`);
        const isExpected = ["closed", "none"].includes(await connected) && chat.state === "closed";
        if (!isExpected) outcomes.push(`${url} ${ms}: ${await connected} ${states}`);
      }
    }
    const { chat } = client(server);
    chat.connect();
    chat.close();
    await chat.connect();
    outcomes.push(chat.state);
    chat.close();
    return outcomes;
  },

  async comes_back_after_a_loss() {
    const { chat, states } = await member();
    const texts = [];
    chat.on("message", ({ message }) => texts.push(message));
    for (const loss of ["cut", "garble"]) {
      const known = states.length;
      await order(loss);
      await until(() => states.slice(known).includes("waiting"));
      const sent = chat.send("r", loss);
      await order("restore");
      await sent;
      await until(() => texts.includes(loss));
    }
    chat.close();
    return texts;
  },

  async drops_all_that_it_calls() {
    for (const call of ["leave", "join", "join again", "send", "direct", "members", "history", "rename", "connect"]) {
      const { chat, states } = await member();
      await order("silence");
      if (call === "leave") chat.leave("r");
      if (call === "join") chat.join("s");
      if (call === "join again") chat.join("r");
      if (call === "send") chat.send("r", "dropped");
      if (call === "direct") chat.direct("u", "dropped");
      if (call === "members") chat.members("r");
      if (call === "history") chat.history("r");
      if (call === "rename") chat.rename("Cid");
      if (call === "connect") chat.connect();
      await pause(10);
      await order("cut");
      await until(() => states.includes("waiting") || call === "rename");
      // Those that need a connection, or a room, and have none.
      for (const request of ["leave", "join", "send", "direct", "members", "history"]) chat[request]("x", "y");
      chat.close();
      for (const request of ["leave", "join", "send", "direct", "members", "history", "rename"]) chat[request]("x", "y");
      await order("restore");
    }
    return "well";
  },

  async finds_a_dead_line() {
    const { chat, states } = await member({ checkTimeoutMs: 200, connectTimeoutMs: 300 });
    await order("silence");
    const sent = chat.send("r", "over the next line");
    // It is asked for no sign but the missing answer.
    await until(() => states.includes("waiting"));
    await order("restore");
    await sent;
    const known = states.length;
    await order("silence");
    chat.check();
    await until(() => states.slice(known).includes("waiting"));
    await order("restore");
    await until(() => chat.state === "online");
    chat.close();
    return "well";
  },

  async sleeps() {
    const options = { checkTimeoutMs: 300, pongTimeoutMs: 300, requestTimeoutMs: 300, sendTimeoutMs: 300 };
    const { chat, states } = await member(options);
    chat.check();
    const answers = [chat.members("r"), chat.send("r", "before it slept")];
    sleep(2_000);
    const codes = await Promise.all(answers.map(codeOf));
    await pause(400);
    chat.close();
    return { codes, states };
  },
};
