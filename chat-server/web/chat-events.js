// Handlers of events.

/** The listener of each handler, so that `off` finds it. */
const LISTENERS = new WeakMap();

export class Emitter extends EventTarget {
  on(type, handler, options) {
    this.addEventListener(type, listenerOf(handler), options);
    return () => this.off(type, handler);
  }

  once(type, handler, options) {
    return this.on(type, handler, { ...options, once: true });
  }

  off(type, handler) {
    this.removeEventListener(type, listenerOf(handler));
  }
}

function listenerOf(handler) {
  if (typeof handler !== "function") throw new TypeError("A handler is a function.");
  if (!LISTENERS.has(handler)) LISTENERS.set(handler, (event) => handler(event.detail));
  return LISTENERS.get(handler);
}
