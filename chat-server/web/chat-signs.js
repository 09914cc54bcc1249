// Signs that a connection may have died unnoticed: the network has changed, or the page was
// frozen or in the background; and `pagehide`, if the browser keeps the page in its back/forward
// cache. A runtime without these events gives none.

/** Calls `onSign(type)`, with the type of the event, at each sign. Returns a function that takes
 *  `addEventListener`, to begin with it, or `removeEventListener`, to end it; twice is as once. */
export function signs(onSign) {
  const listener = ({ type, persisted }) => {
    const isIgnored = type === "pagehide" ? !persisted : type === "visibilitychange" && document.hidden;
    if (!isIgnored) onSign(type);
  };
  // Without an `AbortSignal`: a document of jsdom refuses those of Node.
  return (method) => {
    const { document, navigator } = globalThis;
    const each = (source, ...types) => types.forEach((type) => source?.[method]?.(type, listener));
    each(globalThis, "online", "offline", "pagehide", "pageshow", "focus");
    each(document, "visibilitychange", "resume");
    each(navigator?.connection, "change");
  };
}
