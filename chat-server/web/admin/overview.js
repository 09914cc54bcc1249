// The servers, and the last ten minutes of this one.

import { bytes, duration, make, muted, number, section, table, update } from "./elements.js";
import { plot } from "./plots.js";

const REFRESH_MS = 5000;

export function overview({ view, api, has, samples, repeat }) {
  const servers = make("div");
  const state = make("p", { "data-testid": "state" });
  const plots = make("div", { class: "plots" });
  view.append(make("h1", {}, "Servers"), servers, section("This server", state, plots));
  if (!has("admin")) servers.append(muted("The list of servers needs a key with the scope admin."));
  repeat(REFRESH_MS, async (signal) => {
    const [nodes] = await Promise.all([
      has("admin") ? api.get("/nodes", {}, signal) : undefined,
      samples.update(signal),
    ]);
    if (nodes) update(servers, nodes.nodes, listOf);
    state.replaceChildren(...conditions(samples));
    plots.replaceChildren(...draw(samples));
  });
}

function listOf(nodes) {
  const usual = mostFrequent(nodes.map((node) => `${node.version} ${node.config}`));
  const rows = nodes.map((node) => {
    const differs = `${node.version} ${node.config}` !== usual;
    const config = differs
      ? make("strong", { class: "bad", title: "Its version or its settings differ from those of most servers." }, `${node.config} (differs)`)
      : node.config;
    return [node.node, node.version, number(node.connections), number(node.rooms), duration(node.uptime_ms), config];
  });
  const total = nodes.reduce((sum, node) => sum + node.connections, 0);
  const list = table("servers", ["Server", "Version", "#Connections", "#Rooms", "Running for", "Settings"], rows, "No server has announced itself yet.");
  return make("div", {}, list, muted(`${number(total)} connections in all. The figures are at most 10 s old.`));
}

function mostFrequent(values) {
  const counts = Map.groupBy(values, (value) => value);
  return [...counts].sort(([, one], [, other]) => other.length - one.length)[0]?.[0];
}

/** What is wrong with the server at this moment. */
function conditions(samples) {
  const checks = [
    [samples.latest("chat_ready") === 1, "ready for clients", "not ready for clients"],
    [samples.latest("chat_broker_up") === 1, "the broker accepts messages", "the broker accepts no messages"],
    [samples.latest("chat_broker_full") !== 1, undefined, "Redis is full"],
  ];
  return checks.flatMap(([isGood, good, bad]) => {
    const text = isGood ? good : bad;
    return text ? [make("span", { class: isGood ? "chip good" : "chip bad" }, text)] : [];
  });
}

function draw(samples) {
  const [perSecond, ms] = [(value) => `${number(value)}/s`, (value) => `${number(value)} ms`];
  const plots = [
    ["connections", "Connections", samples.gauge("chat_connections"), number],
    ["messages", "Messages from clients and backends", samples.rate("chat_published_total"), perSecond],
    ["deliveries", "Deliveries to members", samples.rate("chat_deliveries_total"), perSecond],
    ["publishing", "Publishing, 99 %", samples.quantile("chat_publish_seconds_bucket", 0.99), ms],
    ["fan-out", "Fan-out, 99 %", samples.quantile("chat_fan_out_seconds_bucket", 0.99), ms],
    ["outbox", "Waiting for clients to read", samples.gauge("chat_outbox_bytes"), bytes],
    ["round-trips", "Redis round trip, 99 %", samples.quantile("chat_broker_round_trip_seconds_bucket", 0.99), ms],
    ["redis-memory", "Memory of Redis", samples.gauge("chat_redis_memory_used_bytes"), bytes],
    ["limited", "Limits reached", samples.rate("chat_limited_total"), perSecond],
    ["refused", "Handshakes refused", samples.rate("chat_refused_handshakes_total"), perSecond],
    ["gaps", "Gaps: messages lost", samples.rate("chat_gaps_total"), perSecond],
  ];
  return plots.map((each) => plot(...each));
}
