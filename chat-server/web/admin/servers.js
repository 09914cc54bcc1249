// The servers that share the broker, and which of them this page is of.

import { duration, make, minute, muted, named, number, table } from "./elements.js";

/** Servers that a sentence names. */
const NAMED = 20;

/** The columns in which servers should not differ: settings, keys of tokens, version. */
const COMPARED = [({ config }) => config, ({ token_keys: keys }) => keys ?? "none", ({ version }) => version];

/** How long a server that is not listed any longer is still shown. */
const KEPT_MS = 600_000;

/** The servers that this page has seen: one that crashed, froze or was stopped is soon not listed any longer. */
export class KnownServers {
  #seen = new Map();

  /** Takes note of the servers that are listed `now`. Returns those that are not any longer, with the time at which
   *  each was listed last (`until`). */
  update(nodes, now) {
    for (const node of nodes) this.#seen.set(node.node, { ...node, until: now });
    for (const server of this.#seen.values()) if (server.until < now) server.missed ??= now;
    for (const [node, { missed }] of this.#seen) if (now - missed >= KEPT_MS) this.#seen.delete(node);
    return [...this.#seen.values()].filter(({ missed }) => missed !== undefined);
  }
}

/** A server in a sentence. */
export function nameOf({ node, host }) {
  return host ? `${host} (${node})` : node;
}

export function listOfServers({ nodes, here, gone }) {
  const usual = COMPARED.map((valueOf) => mostFrequent(nodes.map(valueOf)));
  const rows = nodes.map((node) => {
    const compared = COMPARED.map((valueOf, index) => marked(valueOf(node), usual[index]));
    const marks = [
      node.node === here && make("strong", { class: "here" }, "this server"),
      compared.some((cell) => cell instanceof Element) && make("strong", { class: "bad" }, "differs"),
    ];
    return [named(node.host ?? node.node, node.node, ...marks), number(node.connections), number(node.rooms), duration(node.uptime_ms), ...compared];
  });
  const total = nodes.reduce((sum, node) => sum + node.connections, 0);
  const columns = ["@Host", "#Connections", "#Rooms", "Running for", "Settings", "Token keys", "Version"];
  const list = table("servers", columns, [...rows, ...gone.map(rowOfGone)], "No server has announced itself yet.");
  const age = make("span", { class: "fresh" }, " The figures are at most 10 s old.");
  return make("div", {}, list, make("p", { class: "muted" }, `${number(total)} connections in all.`, age));
}

function rowOfGone({ node, host, version, until }) {
  const was = make("strong", { class: "gone" }, "was here until ", minute(until));
  return [named(host ?? node, node, was), "", "", "", "", "", version];
}

/** A value, marked if it is not the one that most servers have. */
function marked(value, usual) {
  if (value === usual) return value;
  const title = usual === undefined ? "The servers differ, and no value is that of most." : `Most servers have ${usual}.`;
  return make("strong", { class: "bad", title }, `${value} (differs)`);
}

/** How to read the same on the other servers. */
export function elsewhere(nodes, here) {
  const others = nodes.filter(({ node }) => node !== here);
  if (others.length === 0) return [];
  const names = others.slice(0, NAMED).map(nameOf).join(", ");
  const more = others.length > NAMED ? ` and ${number(others.length - NAMED)} more` : "";
  const open = others.find(({ metrics_addr: address }) => address) ?? others[0];
  const text = `Each server has a page of its own, on its --metrics-addr. The others: ${names}${more}. The way to that of ${nameOf(open)}: `;
  return [make("p", { class: "muted", "data-testid": "elsewhere" }, text, ...wayTo(open))];
}

/** The tunnel to the page of another server, and the address of this view there. Its port on this machine is not that
 *  of the tunnel to this page, which is in use; further servers have further ones. */
export function wayTo({ host, metrics_addr: address }, index = 0) {
  if (!address) return ["It has not said where its page is: it may have no --metrics-addr, or be of an earlier version."];
  const port = localPort(index);
  const to = address.replace(/^(0\.0\.0\.0|\[::\])(?=:\d+$)/, "127.0.0.1");
  const tunnel = make("code", {}, `ssh -L ${port}:${to} ${host ?? "HOST"}`);
  const href = `http://localhost:${port}/admin/${location.hash}`;
  const link = make("a", { href, target: "_blank", rel: "noopener" }, `http://localhost:${port}`);
  return [tunnel, " and then ", link, ` (for ${port}, take any port that is free on your machine).`];
}

function localPort(index) {
  const port = Number(location.port || 9100) + 1 + index;
  return port <= 65_535 ? port : 9101 + index;
}

/** `undefined` if several values are the most frequent: none of two servers is right because it is listed first. */
function mostFrequent(values) {
  const counts = [...Map.groupBy(values, (value) => value)].sort(([, one], [, other]) => other.length - one.length);
  const [[value, servers] = [], [, next] = []] = counts;
  return servers?.length === next?.length ? undefined : value;
}
