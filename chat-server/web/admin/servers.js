// The servers that share the broker, and which of them this page is of.

import { duration, make, muted, named, number, table } from "./elements.js";

/** Servers that a sentence names. */
const NAMED = 20;

/** A server in a sentence. */
export function nameOf({ node, host }) {
  return host ? `${host} (${node})` : node;
}

export function listOfServers({ nodes, here }) {
  const usual = mostFrequent(nodes.map(settingsOf));
  const rows = nodes.map((node) => {
    const differs = settingsOf(node) !== usual;
    const title = "Its version or its settings differ from those of most servers.";
    const config = differs ? make("strong", { class: "bad", title }, `${node.config} (differs)`) : node.config;
    const marks = [
      node.node === here && make("strong", { class: "here" }, "this server"),
      differs && make("strong", { class: "bad" }, "differs"),
    ];
    return [named(node.host ?? node.node, node.node, ...marks), number(node.connections), number(node.rooms), duration(node.uptime_ms), config, node.version];
  });
  const total = nodes.reduce((sum, node) => sum + node.connections, 0);
  const columns = ["@Host", "#Connections", "#Rooms", "Running for", "Settings", "Version"];
  const list = table("servers", columns, rows, "No server has announced itself yet.");
  return make("div", {}, list, muted(`${number(total)} connections in all. The figures are at most 10 s old.`));
}

/** How to read the same on the other servers: no server knows the addresses of their operators. */
export function elsewhere(nodes, here) {
  const others = nodes.filter(({ node }) => node !== here);
  if (others.length === 0) return [];
  const names = others.slice(0, NAMED).map(nameOf).join(", ");
  const more = others.length > NAMED ? ` and ${number(others.length - NAMED)} more` : "";
  const port = location.port || "9100";
  const tunnel = make("code", {}, `ssh -L ${port}:127.0.0.1:${port} ${others[0].host ?? "HOST"}`);
  const text = `Each server has a page of its own, on its --metrics-addr. The others: ${names}${more}. If theirs is as here: `;
  return [make("p", { class: "muted", "data-testid": "elsewhere" }, text, tunnel)];
}

function settingsOf({ version, config }) {
  return `${version} ${config}`;
}

function mostFrequent(values) {
  const counts = Map.groupBy(values, (value) => value);
  return [...counts].sort(([, one], [, other]) => other.length - one.length)[0]?.[0];
}
