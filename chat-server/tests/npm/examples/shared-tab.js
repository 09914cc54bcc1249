let port;
const call = (action, detail) => port.postMessage([action, detail]);

function start() {
  const worker = new SharedWorker("/shared-worker.js", { type: "module" });
  // It was not loaded, or its import failed: another one begins.
  worker.onerror = () => setTimeout(start, 5_000);
  port = worker.port;
  port.onmessage = ({ data }) => show(data);
  call("join", "general");
}

function show({ connection, room, messages }) {
  const line = ({ user, message, error }) => `${user.name}: ${message}${error ? ` (${error.message})` : ""}`;
  document.querySelector("#log").textContent = messages.map(line).join("\n");
  document.querySelector("#count").textContent = room.count;
  document.querySelector("#state").textContent = connection.error?.message ?? room.error?.message ?? room.state;
}

start();
document.querySelector("#hello").onclick = () => call("send", "Hello");

// The worker sees neither that a tab is shown again, nor that it is closed.
addEventListener("pageshow", ({ persisted }) => persisted && call("join", "general"));
document.addEventListener("visibilitychange", () => document.hidden || call("check"));
addEventListener("pagehide", () => call("close"));
