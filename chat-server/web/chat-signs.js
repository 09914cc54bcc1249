// Signs that a connection may have died unnoticed: the network has changed, or the page was
// frozen or in the background. A runtime without these events gives none.

/** Calls `onSign(type)`, with the type of the event, at each sign. Returns a function that ends it. */
export function watchSigns(onSign) {
  const { document, navigator } = globalThis;
  const sources = [
    [globalThis, ["online", "offline", "pageshow", "focus"]],
    [document, ["visibilitychange", "resume"]],
    [navigator?.connection, ["change"]],
  ];
  const listener = ({ type }) => {
    const isHiding = type === "visibilitychange" && document.visibilityState === "hidden";
    if (!isHiding) onSign(type);
  };
  // Without an `AbortSignal`: a document of jsdom refuses those of Node.
  const each = (method) => {
    for (const [source, types] of sources) {
      for (const type of types) source?.[method]?.(type, listener);
    }
  };
  each("addEventListener");
  return () => each("removeEventListener");
}
