// The servers, and the last ten minutes of this one.

import { bytes, duration, make, muted, number, section, table, update } from "./elements.js";
import { settled } from "./api.js";
import { plot } from "./plots.js";
import { Samples } from "./samples.js";
import { readTraffic, showTraffic } from "./traffic.js";

const REFRESH_MS = 5000;

export function overview({ view, api, has, isForAll, repeat }) {
  const samples = new Samples(api);
  if (!has("admin")) return view.append(make("h1", {}, "Servers"), muted("The servers and their figures need a key with the scope admin."));
  const servers = make("div");
  const state = make("p", { "data-testid": "state" });
  const plots = make("div", { class: "plots" });
  const traffic = make("div");
  view.append(make("h1", {}, "Servers"), servers, section("This server", state, plots, traffic));
  if (!isForAll) traffic.append(muted("What has the most traffic needs a key for all rooms."));
  repeat(REFRESH_MS, (signal) => settled([showSamples(signal), showNodes(signal), showBusiest(signal)]));

  async function showSamples(signal) {
    await samples.update(signal);
    if (!samples.latest) return state.replaceChildren("The first figures come 5 s after the start.");
    state.replaceChildren(...conditions(samples.latest));
    plots.replaceChildren(...draw(samples));
  }

  async function showNodes(signal) {
    const { nodes } = await api.get("/nodes", {}, signal);
    update(servers, nodes, listOf);
  }

  async function showBusiest(signal) {
    if (isForAll) update(traffic, await readTraffic(api, signal), showTraffic);
  }
}

function listOf(nodes) {
  const usual = mostFrequent(nodes.map((node) => `${node.version} ${node.config}`));
  const rows = nodes.map((node) => {
    const differs = `${node.version} ${node.config}` !== usual;
    const config = differs
      ? make("strong", { class: "bad", title: "Its version or its settings differ from those of most servers." }, `${node.config} (differs)`)
      : node.config;
    return [node.node, node.host ?? "", node.version, number(node.connections), number(node.rooms), duration(node.uptime_ms), config];
  });
  const total = nodes.reduce((sum, node) => sum + node.connections, 0);
  const list = table("servers", ["Server", "Host", "Version", "#Connections", "#Rooms", "Running for", "Settings"], rows, "No server has announced itself yet.");
  return make("div", {}, list, muted(`${number(total)} connections in all. The figures are at most 10 s old.`));
}

function mostFrequent(values) {
  const counts = Map.groupBy(values, (value) => value);
  return [...counts].sort(([, one], [, other]) => other.length - one.length)[0]?.[0];
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
