// A WebSocket in memory, for the server for tests.

/** The subprotocol of the native protocol. */
const PROTOCOL = "chat.v1";

/** The values of `readyState`. */
const STATES = { CONNECTING: 0, OPEN: 1, CLOSING: 2, CLOSED: 3 };
const { CONNECTING, OPEN, CLOSING, CLOSED } = STATES;

/** A normal end, one without a code, and what a client sees of a connection that was lost. */
export const [NORMAL, NO_CODE, LOST] = [1000, 1005, 1006];

/** A class of WebSockets whose other end is `server`: `accepts()`, `passes(socket)`,
 *  `opened(socket)`, `receive(socket, text)`, `closed(socket, isDeparture)` and `later(run)`. */
export function webSocketOf(server) {
  class TestWebSocket extends EventTarget {
    onopen = null;
    onmessage = null;
    onerror = null;
    onclose = null;
    readyState = CONNECTING;
    #isKnown;

    constructor(url, protocols) {
      super();
      const { href, pathname } = new URL(url);
      const offered = [protocols ?? []].flat();
      this.url = href;
      this.protocol = offered.includes(PROTOCOL) ? PROTOCOL : "";
      // A real server answers 404, or chooses none of the protocols, which ends the connection.
      this.#isKnown = pathname.endsWith("/ws") && (offered.length === 0 || this.protocol !== "");
      server.later(() => {
        if (this.readyState === CONNECTING) this.#open();
      });
    }

    send(text) {
      if (this.readyState === OPEN && server.passes(this)) server.later(() => server.receive(this, text));
    }

    /** The client closes; like a browser, it learns of the end later. The code 1000 says that the
     *  user leaves, if it arrives. */
    close(code = NO_CODE, reason = "") {
      if (this.readyState === CLOSED) return;
      this.readyState = CLOSING;
      this.end(code, { reason, isDeparture: code === NORMAL && server.passes(this) });
    }

    /** The server sends a frame. */
    receive(frame) {
      if (!server.passes(this)) return;
      const data = JSON.stringify(frame);
      server.later(() => this.readyState === OPEN && this.#fire("message", { data }));
    }

    /** The connection ends. */
    end(code, { reason = "", isDeparture = false } = {}) {
      if (this.readyState === CLOSED) return;
      // What was sent before arrives before.
      server.later(() => {
        if (this.readyState === CLOSED) return;
        this.readyState = CLOSED;
        server.closed(this, isDeparture);
        this.#fire("close", { code, reason });
      });
    }

    #open() {
      if (!server.passes(this)) return;
      if (!this.#isKnown || !server.accepts()) {
        this.#fire("error", { message: "The connection was refused." });
        this.end(LOST);
        return;
      }
      this.readyState = OPEN;
      server.opened(this);
      this.#fire("open", {});
    }

    #fire(type, detail) {
      const event = Object.assign(new Event(type), detail);
      this[`on${type}`]?.(event);
      this.dispatchEvent(event);
    }
  }
  // Of the class and of each socket, as those of a browser.
  for (const target of [TestWebSocket, TestWebSocket.prototype]) Object.assign(target, STATES);
  return TestWebSocket;
}
