// uWebSockets.js with its native topics, and `redis`; clients of the dialect `topics`.
// PORT, REDIS_URL.
import uWS from 'uwebsockets';
import { createClient } from 'redis';

const port = Number(process.env.PORT);
const pub = createClient({ url: process.env.REDIS_URL });
const sub = pub.duplicate();
await Promise.all([pub.connect(), sub.connect()]);

const decoder = new TextDecoder();
const members = new Map(); // room -> how many are here: Redis is subscribed to with the first

const app = uWS.App().ws('/*', {
  compression: uWS.DISABLED,
  maxPayloadLength: 64 * 1024,
  maxBackpressure: 64 * 1024 * 1024,
  idleTimeout: 120,
  open: (ws) => { ws.getUserData().rooms = new Set(); },
  message: (ws, data) => {
    let m;
    try { m = JSON.parse(decoder.decode(data)); } catch { return; }
    if (m.type === 'SUBSCRIBE') join(ws, m.room);
    else if (m.type === 'UNSUBSCRIBE') {
      ws.unsubscribe(m.room);
      leave(ws, m.room);
    } else if (m.type === 'sendMessage') {
      pub.publish(m.roomId, JSON.stringify({ type: 'sendMessage', roomId: m.roomId, message: m.message }));
    }
  },
  close: (ws) => { for (const room of [...ws.getUserData().rooms]) leave(ws, room); },
});

function join(ws, room) {
  const rooms = ws.getUserData().rooms;
  if (rooms.has(room)) return;
  rooms.add(room);
  ws.subscribe(room);
  const before = members.get(room) ?? 0;
  members.set(room, before + 1);
  if (before === 0) sub.subscribe(room, (text) => { app.publish(room, text, false); });
}

function leave(ws, room) {
  if (!ws.getUserData().rooms.delete(room)) return;
  const left = members.get(room) - 1;
  if (left > 0) members.set(room, left);
  else {
    members.delete(room);
    sub.unsubscribe(room);
  }
}

app.listen('127.0.0.1', port, (ok) => { if (!ok) throw new Error(`port ${port} is taken`); });
