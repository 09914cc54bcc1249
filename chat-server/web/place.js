// Where this page is, which server it talks to, and what it remembers between reloads.

/** The address under which the server's routes lie: this file is `web/place.js` there. */
export const BASE = new URL("../", import.meta.url);

/** The address of this page without a room, which need not have the slash of `BASE`. */
export const HOME = new URL(document.querySelector('meta[name="home"]').content, BASE);

const query = new URLSearchParams(location.search);

/** `?port=8081`: another server on the same host. */
const port = /^\d{1,5}$/.test(query.get("port") ?? "") ? query.get("port") : null;

function onServer(path) {
  const url = new URL(path, BASE);
  if (port) url.port = port;
  return url;
}

export function socketUrl() {
  const url = onServer("ws");
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

/** Asks the server for a room that nobody can guess. */
export async function createRoom(token) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(onServer("create-room"), { method: "POST", headers });
  if (!response.ok) throw new Error(`The server answered ${response.status}.`);
  return (await response.json()).roomId;
}

/** The address of a room. Dots would be taken for folders in the path. */
export function linkTo(room) {
  const inQuery = room === "." || room === "..";
  const url = inQuery ? new URL(HOME) : new URL(`join-room/${encodeURIComponent(room)}`, BASE);
  if (inQuery) url.searchParams.set("room", room);
  if (port) url.searchParams.set("port", port);
  return url.href;
}

export function linkToStart() {
  const url = new URL(HOME);
  if (port) url.searchParams.set("port", port);
  return url.href;
}

/** What the address says: a room to join, a name to go by. */
export function asked() {
  const [, inPath] = location.pathname.match(/\/join-room\/([^/]+)\/?$/) ?? [];
  return {
    room: query.get("room") || (inPath && decode(inPath)) || null,
    name: query.get("user") || query.get("username") || null,
  };
}

/** Whether there is a token in the part of the address that may change without a load. */
export function hasToken() {
  return new URLSearchParams(location.hash.slice(1)).has("token");
}

/** Takes the token out of the address, `#token=` or `?token=`, where others could read it. */
export function takeToken() {
  const url = new URL(location.href);
  const inHash = new URLSearchParams(url.hash.slice(1));
  const token = inHash.get("token") ?? url.searchParams.get("token");
  if (token === null) return null;
  inHash.delete("token");
  url.hash = inHash.toString();
  url.searchParams.delete("token");
  showAddress(url.href);
  return token || null;
}

/** Shows an address of this page's without loading it. Safari throws where that is done a hundred
 *  times within half a minute; then the one before stays. */
export function showAddress(address) {
  try {
    history.replaceState(null, "", address);
  } catch {
    // The page does not need it.
  }
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}

/** What this tab remembers of the server that the page talks to, and of no other: `token` and
 *  `resume` are secrets between the two, and any address may name another port. `{name, resume,
 *  token, rooms, current}`. Another tab is another user. */
export const session = {
  load: () => read(() => sessionStorage, SESSION) ?? {},
  save: (value) => write(() => sessionStorage, SESSION, value),
};

/** The name that was last chosen in this browser. */
export const lastName = {
  load: () => read(() => localStorage, KEY)?.name ?? "",
  save: (name) => write(() => localStorage, KEY, { name }),
};

const KEY = "chat";
const SESSION = `${KEY} ${onServer("").origin}`;

// Earlier versions stored the secrets without the server that they belong to.
write(() => sessionStorage, KEY, undefined);

// Storage may be forbidden, which asking for it shows, or full, or hold what another page wrote.
function read(storage, key) {
  try {
    return JSON.parse(storage().getItem(key));
  } catch {
    return null;
  }
}

function write(storage, key, value) {
  try {
    if (value === undefined) storage().removeItem(key);
    else storage().setItem(key, JSON.stringify(value));
  } catch {
    // Then it is forgotten.
  }
}
