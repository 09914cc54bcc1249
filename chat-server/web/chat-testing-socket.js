// A WebSocket in memory, for the server for tests.

/** The subprotocol of the native protocol. */
const PROTOCOL = "chat.v1";

const [CONNECTING, OPEN, CLOSED] = [0, 1, 3];

/** A normal end, one without a code, and what a client sees of a connection that was lost. */
export const [NORMAL, NO_CODE, LOST] = [1000, 1005, 1006];

/** A class of WebSockets whose other end is `server`: `accepts()`, `passes(socket)`,
 *  `opened(socket)`, `receive(socket, text)`, `closed(socket, isDeparture)` and `later(run)`. */
export function webSocketOf(server) {
  return class TestWebSocket {
    onopen = null;
    onmessage = null;
    onerror = null;
    onclose = null;
    readyState = CONNECTING;
    #isKnown;

    constructor(url, protocols) {
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
      this.end(code, { reason, isDeparture: code === NORMAL && server.passes(this) });
    }

    /** The server sends a frame. */
    receive(frame) {
      if (!server.passes(this)) return;
      const data = JSON.stringify(frame);
      server.later(() => this.readyState === OPEN && this.onmessage?.({ data }));
    }

    /** The connection ends. */
    end(code, { reason = "", isDeparture = false } = {}) {
      if (this.readyState === CLOSED) return;
      // What was sent before arrives before.
      server.later(() => {
        if (this.readyState === CLOSED) return;
        this.readyState = CLOSED;
        server.closed(this, isDeparture);
        this.onclose?.({ code, reason });
      });
    }

    #open() {
      if (!server.passes(this)) return;
      if (!this.#isKnown || !server.accepts()) {
        this.onerror?.({ message: "The connection was refused." });
        this.end(LOST);
        return;
      }
      this.readyState = OPEN;
      server.opened(this);
      this.onopen?.({});
    }
  };
}
