// What most people write: `ws` and `redis`, a set of sockets for each room, clients of the
// dialect `topics`. PORT, REDIS_URL.
import { WebSocketServer, WebSocket } from 'ws';
import { createClient } from 'redis';

const port = Number(process.env.PORT);
const pub = createClient({ url: process.env.REDIS_URL });
const sub = pub.duplicate();
await Promise.all([pub.connect(), sub.connect()]);

const rooms = new Map(); // room -> Set<WebSocket>

function fanOut(room, text) {
  for (const ws of rooms.get(room) ?? []) {
    if (ws.readyState === WebSocket.OPEN) ws.send(text);
  }
}

function join(ws, room) {
  let members = rooms.get(room);
  if (!members) {
    members = new Set();
    rooms.set(room, members);
    sub.subscribe(room, (text) => fanOut(room, JSON.stringify(JSON.parse(text))));
  }
  members.add(ws);
  ws.rooms.add(room);
}

function leave(ws, room) {
  const members = rooms.get(room);
  if (!ws.rooms.delete(room)) return;
  members.delete(ws);
  if (members.size === 0) {
    rooms.delete(room);
    sub.unsubscribe(room);
  }
}

const wss = new WebSocketServer({ host: '127.0.0.1', port, perMessageDeflate: false, backlog: 4096 });
wss.on('connection', (ws) => {
  ws.rooms = new Set();
  ws.on('message', (data) => {
    let m;
    try { m = JSON.parse(data); } catch { return; }
    if (m.type === 'SUBSCRIBE') join(ws, m.room);
    else if (m.type === 'UNSUBSCRIBE') leave(ws, m.room);
    else if (m.type === 'sendMessage') {
      pub.publish(m.roomId, JSON.stringify({ type: 'sendMessage', roomId: m.roomId, message: m.message }));
    }
  });
  ws.on('close', () => { for (const room of [...ws.rooms]) leave(ws, room); });
  ws.on('error', () => {});
});
