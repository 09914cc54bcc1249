// The state of the connection, in words.

import { announce } from "./announce.js";
import { byId } from "./dom.js";
import { endInWords } from "./words.js";

const WORDS = {
  idle: "Not connected",
  connecting: "Connecting …",
  online: "Connected",
  waiting: "Reconnecting …",
  closed: "Disconnected",
};

let countdown = null;
let wasLost = false;

export function showConnection({ state, retryInMs, code, reason, message }, client) {
  const end = endInWords({ code, reason, message });
  clearInterval(countdown);
  byId("dot").className = `dot ${state}`;
  byId("connection").textContent = WORDS[state];
  byId("connection").title = client.node ? `Server ${client.node}` : "";
  byId("banner").hidden = state === "online";
  byId("banner").classList.toggle("final", state === "closed");
  byId("retry").hidden = state === "connecting";
  byId("retry").textContent = state === "closed" ? "Connect again" : "Try now";
  if (state === "waiting") count(performance.now() + retryInMs);
  else say(state === "closed" ? `Disconnected: ${end}` : wasLost ? "Reconnecting …" : "Connecting …");
  announceChange(state, end);
}

/** Reconnects at once when the user asks for it. */
export function reconnectOnRequest(client) {
  byId("retry").addEventListener("click", () => client.connect());
}

function say(text) {
  byId("banner-text").textContent = text;
}

function count(until) {
  const tick = () => {
    const seconds = Math.max(1, Math.ceil((until - performance.now()) / 1000));
    say(`Connection lost. Trying again in ${seconds}\u00a0s.`);
  };
  tick();
  countdown = setInterval(tick, 1000);
}

/** Announces the loss and the return once each, whatever the number of attempts. */
function announceChange(state, end) {
  if (state === "waiting" && !wasLost) announce("The connection was lost. Reconnecting.");
  if (state === "online" && wasLost) announce("Connected again.");
  if (state === "closed") announce(`Disconnected: ${end}`);
  if (state !== "connecting") wasLost = state !== "online";
}
