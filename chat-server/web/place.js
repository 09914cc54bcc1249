// The address of this page, its server, and what it stores between reloads.

/** The base URL of the server's routes: this file is `web/place.js` there. */
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

/** Creates a room with a random id. */
export async function createRoom(token) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(onServer("create-room"), { method: "POST", headers });
  if (!response.ok) throw new Error(`The server answered ${response.status}.`);
  return (await response.json()).roomId;
}

/** The address of a room. Dots in the path would name folders. */
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

/** The room and the name in the address of the page. */
export function pageParams() {
  const [, inPath] = location.pathname.match(/\/join-room\/([^/]+)\/?$/) ?? [];
  return {
    room: query.get("room") || (inPath && decode(inPath)) || null,
    name: query.get("user") || query.get("username") || null,
  };
}

/** Whether the fragment of the address, which may change without a reload, has a token. */
export function hasToken() {
  return new URLSearchParams(location.hash.slice(1)).has("token");
}

/** Removes the token, `#token=` or `?token=`, from the address, which other people may see. */
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

/** Shows another address of this page without loading it. Safari throws after a hundred calls within
 *  30 s; then the previous address stays. */
export function showAddress(address) {
  try {
    history.replaceState(null, "", address);
  } catch {
    // The page works without it.
  }
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}

/** The data of this tab and its server: `{name, resume, token, rooms, current}`. It is stored by server,
 *  since `token` and `resume` are secrets of that server, and `?port=` may name another one. Another
 *  tab is another user. */
export const session = {
  load: () => read(() => sessionStorage, SESSION) ?? {},
  save: (value) => write(() => sessionStorage, SESSION, value),
};

/** The last name chosen in this browser. */
export const lastName = {
  load: () => read(() => localStorage, KEY)?.name ?? "",
  save: (name) => write(() => localStorage, KEY, { name }),
};

const KEY = "chat";
const SESSION = `${KEY} ${onServer("").origin}`;

// Earlier versions stored the secrets without the server that they belong to.
write(() => sessionStorage, KEY, undefined);

// Access to the storage may throw; it may be full, or contain data of another page.
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
    // Then it is not stored.
  }
}
