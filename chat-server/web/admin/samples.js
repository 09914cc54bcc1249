// The last ten minutes of the server that answers. It keeps them, so a page that has just been opened
// shows what came before.

const KEPT = 120;

/** The time of a sample. */
const SECONDS = 5;

export class Samples {
  #api;
  #samples = [];

  /** The server that has answered: its `node` and its `host`. */
  server;

  constructor(api) {
    this.#api = api;
  }

  /** Asks for what is new. */
  async update(signal) {
    const known = this.server?.node;
    const answer = await this.#ask(this.latest?.at, signal);
    if (known && known !== answer.node) return this.#restart(signal);
    this.#add(answer);
  }

  /** Another process answers, whose clock may be another: the figures so far are not its own. */
  async #restart(signal) {
    this.#samples = [];
    this.#add(await this.#ask(undefined, signal));
  }

  #ask(after, signal) {
    return this.#api.get("/samples", { after }, signal);
  }

  #add({ samples, ...server }) {
    this.server = server;
    this.#samples = [...this.#samples, ...samples].slice(-KEPT);
  }

  get latest() {
    return this.#samples.at(-1);
  }

  /** How often each limit was reached, the most frequent first: `[[limit, count]]`. */
  limits() {
    const counts = new Map();
    for (const { limits = {} } of this.#samples) {
      for (const [limit, rate] of Object.entries(limits)) counts.set(limit, (counts.get(limit) ?? 0) + rate * SECONDS);
    }
    return [...counts].map(([limit, count]) => [limit, Math.max(1, Math.round(count))]).sort(([, one], [, other]) => other - one);
  }

  /** A figure over time: `[{ at, value }]`, without the samples that lack it. */
  series(name) {
    return this.#samples.flatMap((sample) => (name in sample ? [{ at: sample.at, value: sample[name] }] : []));
  }
}
