// The link to a room, for others.

import { announce } from "./announce.js";
import { byId } from "./dom.js";

export function openShare(link) {
  byId("link").value = link;
  byId("copy").textContent = "Copy link";
  byId("share-dialog").showModal();
  byId("copy").focus();
}

byId("copy").addEventListener("click", async () => {
  const field = byId("link");
  try {
    await navigator.clipboard.writeText(field.value);
  } catch {
    // Without TLS there is no clipboard but this.
    field.select();
    document.execCommand("copy");
  }
  byId("copy").textContent = "Copied";
  announce("The link was copied.");
});
