// The last ten minutes of this server, from its metrics page. The page collects them while it is open;
// a reload keeps them.

const INTERVAL_MS = 5000;
const SAMPLES = 120;
const STORAGE = "chat-admin-samples";

/** What a plot needs of a scrape. Counters of one name are added up over their labels. */
const NAMES = new Set([
  "chat_connections",
  "chat_rooms",
  "chat_ready",
  "chat_broker_up",
  "chat_broker_full",
  "chat_published_total",
  "chat_deliveries_total",
  "chat_outbox_bytes",
  "chat_limited_total",
  "chat_rejected_total",
  "chat_refused_handshakes_total",
  "chat_gaps_total",
  "chat_redis_memory_used_bytes",
  "chat_publish_seconds_bucket",
  "chat_fan_out_seconds_bucket",
  "chat_broker_round_trip_seconds_bucket",
]);

const LINE = /^(\w+)(?:\{(.*)\})? (\S+)$/;
const UPPER_BOUND = /le="([^"]*)"/;

/** Reads the text format: `{ chat_rooms: 2, chat_publish_seconds_bucket: { "0.01": 7 } }`. */
export function parse(text) {
  const values = {};
  for (const line of text.split("\n")) {
    const [, name, labels = "", value] = LINE.exec(line) ?? [];
    if (!NAMES.has(name)) continue;
    const bound = UPPER_BOUND.exec(labels)?.[1];
    if (bound) (values[name] ??= {})[bound] = Number(value);
    else values[name] = (values[name] ?? 0) + Number(value);
  }
  return values;
}

/** The samples of the last ten minutes, oldest first: `{ at, values }`. */
export class Samples {
  #samples = load();

  /** Reads the metrics now if the latest sample is older than the interval. */
  async update(signal) {
    const latest = this.#samples.at(-1);
    if (latest && Date.now() - latest.at < INTERVAL_MS) return;
    const response = await fetch("/metrics", { cache: "no-store", signal });
    if (!response.ok) throw new Error(`/metrics: ${response.status}`);
    this.#samples.push({ at: Date.now(), values: parse(await response.text()) });
    const oldest = Date.now() - SAMPLES * INTERVAL_MS;
    this.#samples = this.#samples.filter(({ at }) => at > oldest);
    save(this.#samples);
  }

  latest(name) {
    return this.#samples.at(-1)?.values[name];
  }

  /** A gauge over time: `[{ at, value }]`. */
  gauge(name) {
    return this.#samples.flatMap(({ at, values }) => (name in values ? [{ at, value: values[name] }] : []));
  }

  /** How much a counter has grown in a second. A server that has been restarted counts from 0. */
  rate(name) {
    return this.#pairs().map(([before, { at, values }]) => {
      const [from, to] = [before.values[name] ?? 0, values[name] ?? 0];
      return { at, value: ((to >= from ? to - from : to) * 1000) / (at - before.at) };
    });
  }

  /** A quantile of a histogram, in milliseconds, of what came between two samples; none if nothing did. */
  quantile(name, share) {
    return this.#pairs().flatMap(([before, { at, values }]) => {
      const value = quantile(before.values[name] ?? {}, values[name] ?? {}, share);
      return value === undefined ? [] : [{ at, value: value * 1000 }];
    });
  }

  #pairs() {
    return this.#samples.slice(1).map((sample, index) => [this.#samples[index], sample]);
  }
}

/** The smallest bound of a bucket that holds `share` of what was added; the last finite one at most. */
export function quantile(before, after, share) {
  const bounds = Object.keys(after).sort((one, other) => bound(one) - bound(other));
  const restarted = bounds.some((name) => after[name] < (before[name] ?? 0));
  const added = bounds.map((name) => after[name] - (restarted ? 0 : (before[name] ?? 0)));
  const total = added.at(-1) ?? 0;
  if (total === 0) return undefined;
  const found = added.findIndex((count) => count >= total * share);
  const finite = bounds.filter((name) => Number.isFinite(bound(name)));
  return bound(bounds[found]) === Infinity ? bound(finite.at(-1)) : bound(bounds[found]);
}

function bound(name) {
  return name === "+Inf" ? Infinity : Number(name);
}

function load() {
  try {
    return JSON.parse(sessionStorage.getItem(STORAGE)) ?? [];
  } catch {
    return [];
  }
}

function save(samples) {
  try {
    sessionStorage.setItem(STORAGE, JSON.stringify(samples));
  } catch {
    // The browser stores nothing: a reload begins again.
  }
}
