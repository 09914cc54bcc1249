const { port } = new SharedWorker("/shared-worker.js", { type: "module" });
const call = (action, detail) => port.postMessage([action, detail]);

port.onmessage = ({ data: { count, lines } }) => {
  document.querySelector("#log").textContent = lines.join("\n");
  document.querySelector("#count").textContent = count;
};
call("join", "general");
document.querySelector("#hello").onclick = () => call("send", { room: "general", text: "Hello" });

// The worker sees neither that a tab is shown again, nor that it is closed.
addEventListener("pageshow", ({ persisted }) => persisted && call("join", "general"));
document.addEventListener("visibilitychange", () => document.hidden || call("check"));
addEventListener("pagehide", () => call("close"));
