// Keys that are meant for an input method, and not for the page.

/** What an input method reports for any key that it takes. */
const PROCESSED = 229;

/** Within this time a key is the one that ended a composition. On Android none is: keyboards there
 *  end the word that they compose before they report the Enter that follows on it. */
const ENDING_MS = /Android/.test(navigator.userAgent) ? 0 : 100;

let isDown = false;
let endedAt = -Infinity;

// Safari ends a composition before it reports the key that did so, at times as an ordinary one. A
// composition that ends while a key is down was ended by that one; for Korean, Chrome on macOS
// reports it again, then for the page.
const listeners = {
  keydown: () => (isDown = true),
  keyup: () => {
    isDown = false;
    endedAt = -Infinity;
  },
  compositionend: ({ timeStamp }) => {
    if (!isDown) endedAt = timeStamp;
  },
};
for (const [type, listener] of Object.entries(listeners)) {
  document.addEventListener(type, listener, { capture: true });
}

/** Whether a `keydown` belongs to a composition, including its end. */
export function isComposing({ isComposing, keyCode, timeStamp }) {
  return isComposing || keyCode === PROCESSED || timeStamp - endedAt < ENDING_MS;
}
