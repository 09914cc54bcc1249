// Signs that a connection may have died unnoticed: the network has changed, or the page was
// frozen or in the background. A runtime without these events gives none.

/** Calls `onSign(type)`, with the type of the event, at each sign. Returns the controller that ends it. */
export function watchSigns(onSign) {
  const { document, navigator } = globalThis;
  const controller = new AbortController();
  const { signal } = controller;
  const listener = ({ type }) => {
    const isHiding = type === "visibilitychange" && document.visibilityState === "hidden";
    if (!isHiding) onSign(type);
  };
  const watch = (target, types) => {
    for (const type of types) target?.addEventListener?.(type, listener, { signal });
  };
  watch(globalThis, ["online", "offline", "pageshow", "focus"]);
  watch(document, ["visibilitychange", "resume"]);
  watch(navigator?.connection, ["change"]);
  return controller;
}
