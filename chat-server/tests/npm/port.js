// A `TestServer` behind a port, for clients that are processes of their own.

import { ok } from "node:assert";
import { once } from "node:events";
import { setTimeout as pause } from "node:timers/promises";

import { WebSocketServer } from "ws";

/** Has a `TestServer` listen: each connection is one of its own. */
export async function portOf({ WebSocket }) {
  const listener = new WebSocketServer({ port: 0, handleProtocols: () => "chat.v1" });
  listener.on("connection", (socket) => {
    const inner = new WebSocket("ws://chat.example/ws", ["chat.v1"]);
    const early = [];
    inner.onopen = () => early.splice(0).forEach((text) => inner.send(text));
    inner.onmessage = ({ data }) => socket.send(data);
    inner.onclose = ({ code, reason }) => (code === 1006 ? socket.terminate() : socket.close(code, reason));
    socket.on("message", (text) => (inner.readyState === 1 ? inner.send(`${text}`) : early.push(`${text}`)));
    socket.on("close", (code) => inner.close(code === 1000 ? code : undefined));
  });
  await once(listener, "listening");
  return listener;
}

/** Waits for what another process does. */
export async function until(isDue) {
  for (const deadline = Date.now() + 10_000; !isDue(); await pause(10)) ok(Date.now() < deadline, `${isDue}`);
}

/** Ends a process, and waits for its end. */
export async function kill(child) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGKILL");
  await once(child, "exit");
}
