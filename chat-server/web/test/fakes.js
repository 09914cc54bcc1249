// A clock that moves only when a test advances it, and a WebSocket without a network.

/** Stands in for the clocks and timers that the module uses. (Those of `node:test` leave out
 *  `performance.now`.) */
export class FakeTime {
  #now = 0;
  #timers = new Map();
  #lastId = 0;
  #restore = [];

  install() {
    this.#replace(globalThis, "setTimeout", (run, ms = 0) => {
      this.#timers.set((this.#lastId += 1), { run, at: this.#now + ms });
      return this.#lastId;
    });
    this.#replace(globalThis, "clearTimeout", (id) => this.#timers.delete(id));
    this.#replace(performance, "now", () => this.#now);
    this.#replace(Date, "now", () => this.#now);
  }

  uninstall() {
    for (const restore of this.#restore) restore();
  }

  /** Runs what is due within so many milliseconds, in order, and what follows from it. Time stops
   *  as soon as something `isDone`. */
  async advance(ms, isDone = () => false) {
    const until = this.#now + ms;
    await settled();
    for (let next = this.#nextBy(until); next; next = this.#nextBy(until)) {
      const [id, { run, at }] = next;
      this.#timers.delete(id);
      this.#now = Math.max(this.#now, at);
      run();
      await settled();
      if (isDone()) return;
    }
    this.#now = until;
  }

  /** Time passes in which nothing runs, as while a device sleeps. */
  sleep(ms) {
    this.#now += ms;
  }

  #nextBy(until) {
    const due = [...this.#timers].filter(([, { at }]) => at <= until);
    // The sort is stable: of two timers for the same moment the older runs first.
    return due.sort(([, a], [, b]) => a.at - b.at)[0];
  }

  #replace(object, name, value) {
    const before = Object.getOwnPropertyDescriptor(object, name);
    Object.defineProperty(object, name, { value, configurable: true, writable: true });
    this.#restore.push(() => {
      if (before) Object.defineProperty(object, name, before);
      else delete object[name];
    });
  }
}

/** All promises that can settle without time passing have settled. */
export function settled() {
  return new Promise((resolve) => setImmediate(resolve));
}

/** A class of WebSockets that report what the client does to `onWire(action)`: `{connect}`,
 *  `{send}` and `{close}`. `onSocket(socket)` gets each one that is made. */
export function fakeWebSocket(onWire, onSocket) {
  return class {
    readyState = 0;

    constructor() {
      onWire({ connect: {} });
      onSocket(this);
    }

    send(text) {
      const frame = JSON.parse(text);
      if (frame.type === "ping") this.receive(JSON.stringify({ type: "pong", id: frame.id }));
      else onWire({ send: frame });
    }

    close(code) {
      this.readyState = 3;
      onWire({ close: { code } });
    }

    open() {
      this.readyState = 1;
      this.onopen?.();
    }

    receive(text) {
      this.onmessage?.({ data: text });
    }

    /** The connection ends without the client's doing. */
    end(code, reason = "") {
      this.readyState = 3;
      this.onclose?.({ code, reason });
    }
  };
}
