// The servers, and the last ten minutes of this one.

import { bytes, make, muted, number, update } from "./elements.js";
import { currently, settled } from "./api.js";
import { plot } from "./plots.js";
import { Samples } from "./samples.js";
import { elsewhere, listOfServers, nameOf } from "./servers.js";
import { Traffic } from "./traffic.js";

const REFRESH_MS = 5000;

export function overview({ view, api, has, isForAll, repeat, servers: known }) {
  const samples = new Samples(api);
  if (!has("admin")) return view.append(make("h1", {}, "Servers"), withoutAdmin());
  const servers = make("div");
  const state = make("p", { "data-testid": "state" });
  const others = make("div");
  const plots = make("div", { class: "plots" });
  const limits = make("p", { class: "muted", "data-testid": "limits" });
  const traffic = new Traffic(api, has("read"));
  const name = make("span", { "data-testid": "this-server" });
  const thisServer = make("section", {}, make("h2", {}, "This server: ", name), state, others, plots, limits);
  view.append(make("h1", {}, "Servers"), servers, thisServer);
  thisServer.append(isForAll ? traffic.element : muted("What has the most traffic needs a key for all rooms."));
  repeat(REFRESH_MS, (signal) => {
    const sampled = showSamples(signal);
    return settled([sampled, showNodes(sampled, signal), ...(isForAll ? [traffic.update(signal)] : [])]);
  });

  async function showSamples(signal) {
    await samples.update(signal);
    name.textContent = nameOf(samples.server);
    if (!samples.latest) {
      state.replaceChildren("The first figures come 5 s after the start.");
      return plots.replaceChildren();
    }
    state.replaceChildren(...conditions(samples.latest, await causeOf(samples.latest, signal)));
    plots.replaceChildren(...draw(samples));
    limits.textContent = limitsReached(samples);
  }

  async function showNodes(sampled, signal) {
    const { nodes } = await currently(servers, api.get("/nodes", {}, signal));
    // The samples say which of the servers this is.
    await sampled.catch(() => {});
    const here = samples.server?.node;
    update(servers, { nodes, here, gone: known.update(nodes, Date.now()) }, listOfServers);
    others.replaceChildren(...elsewhere(nodes, here));
  }
}

function withoutAdmin() {
  const [rooms, users] = ["Rooms", "Users"].map((name) => make("a", { href: `#/${name.toLowerCase()}` }, name));
  return make("p", { class: "muted" }, "The servers and their figures need a key with the scope admin. See ", rooms, " and ", users, ".");
}

/** Why the server is not ready, as it tells balancers; nothing if it is. */
async function causeOf({ ready }, signal) {
  if (ready) return "";
  const response = await fetch("/readyz", { cache: "no-store", signal }).catch(() => undefined);
  return response?.status === 503 ? response.text() : "";
}

/** The part of its memory above which Redis is soon full, as for the alarm. */
const MUCH = 0.8;

/** What is wrong with the server at this moment. */
function conditions({ ready, broker_up, broker_full, redis_memory_bytes, redis_memory_max_bytes }, cause) {
  const checks = [
    [ready, "ready for clients", "not ready for clients"],
    [broker_up && !broker_full, "messages are accepted", broker_up ? "Redis is full" : "Redis accepts no messages"],
  ];
  if (redis_memory_max_bytes && !broker_full) {
    const part = redis_memory_bytes / redis_memory_max_bytes;
    const filled = `Redis is ${Math.round(100 * part)} % full`;
    checks.push([part <= MUCH, filled, filled]);
  }
  const chips = checks.map(([isGood, good, bad]) => make("span", { class: isGood ? "fresh chip good" : "fresh chip bad" }, isGood ? good : bad));
  return cause ? [...chips, make("span", { class: "fresh" }, cause)] : chips;
}

/** The limits behind the plot of all of them, those that were reached most first. */
function limitsReached(samples) {
  const counts = samples.limits();
  if (counts.length === 0) return "";
  return `Limits reached in these ten minutes: ${counts.map(([limit, count]) => `${limit} ${times(count)}`).join(", ")}.`;
}

function times(count) {
  return count === 1 ? "once" : `about ${number(count)} times`;
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
    return series.length > 0 ? [plot(name, title, series, write, samples.latest.at)] : [];
  });
}
