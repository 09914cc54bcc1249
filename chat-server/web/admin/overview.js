// The servers, and the last ten minutes of this one.

import { bytes, make, muted, number, update } from "./elements.js";
import { settled } from "./api.js";
import { plot } from "./plots.js";
import { Samples } from "./samples.js";
import { elsewhere, listOfServers, nameOf } from "./servers.js";
import { readTraffic, showTraffic } from "./traffic.js";

const REFRESH_MS = 5000;

export function overview({ view, api, has, isForAll, repeat }) {
  const samples = new Samples(api);
  if (!has("admin")) return view.append(make("h1", {}, "Servers"), withoutAdmin());
  const servers = make("div");
  const state = make("p", { "data-testid": "state" });
  const others = make("div");
  const plots = make("div", { class: "plots" });
  const traffic = make("div");
  const name = make("span", { "data-testid": "this-server" });
  const thisServer = make("section", {}, make("h2", {}, "This server: ", name), state, others, plots, traffic);
  view.append(make("h1", {}, "Servers"), servers, thisServer);
  if (!isForAll) traffic.append(muted("What has the most traffic needs a key for all rooms."));
  repeat(REFRESH_MS, (signal) => {
    const sampled = showSamples(signal);
    return settled([sampled, showNodes(sampled, signal), showBusiest(signal)]);
  });

  async function showSamples(signal) {
    await samples.update(signal);
    name.textContent = nameOf(samples.server);
    if (!samples.latest) {
      state.replaceChildren("The first figures come 5 s after the start.");
      return plots.replaceChildren();
    }
    state.replaceChildren(...conditions(samples.latest));
    plots.replaceChildren(...draw(samples));
  }

  async function showNodes(sampled, signal) {
    const { nodes } = await api.get("/nodes", {}, signal);
    // The samples say which of the servers this is.
    await sampled.catch(() => {});
    const here = samples.server?.node;
    update(servers, { nodes, here }, listOfServers);
    others.replaceChildren(...elsewhere(nodes, here));
  }

  async function showBusiest(signal) {
    if (isForAll) update(traffic, await readTraffic(api, signal), showTraffic);
  }
}

function withoutAdmin() {
  const [rooms, users] = ["Rooms", "Users"].map((name) => make("a", { href: `#/${name.toLowerCase()}` }, name));
  return make("p", { class: "muted" }, "The servers and their figures need a key with the scope admin. See ", rooms, " and ", users, ".");
}

/** What is wrong with the server at this moment. */
function conditions({ ready, broker_up, broker_full }) {
  const checks = [
    [ready, "ready for clients", "not ready for clients"],
    [broker_up && !broker_full, "messages are accepted", broker_up ? "Redis is full" : "Redis accepts no messages"],
  ];
  return checks.flatMap(([isGood, good, bad]) => {
    const text = isGood ? good : bad;
    return text ? [make("span", { class: isGood ? "chip good" : "chip bad" }, text)] : [];
  });
}

const perSecond = (value) => `${number(value)}/s`;
const ms = (value) => `${number(value)} ms`;

/** What is plotted of the samples. */
const PLOTS = [
  ["connections", "Connections", number],
  ["messages", "Messages sent", perSecond],
  ["deliveries", "Deliveries to members", perSecond],
  ["publish_ms", "Publishing, 99 %", ms],
  ["fan_out_ms", "Fan-out, 99 %", ms],
  ["outbox_bytes", "Waiting for clients to read", bytes],
  ["round_trip_ms", "Redis round trip, 99 %", ms],
  ["redis_memory_bytes", "Memory of Redis", bytes],
  ["limited", "Limits reached", perSecond],
  ["refused", "Handshakes refused", perSecond],
  ["gaps", "Gaps: messages lost", perSecond],
];

function draw(samples) {
  return PLOTS.flatMap(([name, title, write]) => {
    const series = samples.series(name);
    return series.length > 0 ? [plot(name, title, series, write)] : [];
  });
}
