// The application of the examples: it serves their page, logs users in by a cookie, and gives tokens. Prints
// its address. `/login?user=ann&lifetime=2` logs in, `/count` has the number of tokens given, `?room=` names
// another room, and files with `?no-store` are not to be stored. With CHAT_KEY a log-out disconnects the user.

import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";

const { CHAT_URL, CHAT_SECRET, CHAT_KEY } = process.env;
const TYPES = { html: "text/html", js: "text/javascript" };
const PAGES = { "/": "page.js", "/shared": "shared-tab.js" };
/** That of docs/recipes.md, for the page and the worker. */
const POLICY = `default-src 'none'; script-src 'self'; worker-src 'self'; connect-src 'self' ${CHAT_URL}; img-src 'self'`;
let given = 0;

function tokenOf(user, lifetime) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const exp = Math.floor(Date.now() / 1_000) + lifetime;
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub: user, name: user, exp })}`;
  return `${signed}.${createHmac("sha256", CHAT_SECRET).update(signed).digest("base64url")}`;
}

/** A file of the examples, with the address of the test's server, and another room if there is one. */
function example(file, room) {
  const text = readFileSync(new URL(`examples/${file}`, import.meta.url), "utf8");
  return text.replaceAll("wss://chat.example/ws", CHAT_URL).replace('"general"', `"${room ?? "general"}"`);
}

function fileOf(path, room) {
  if (path.startsWith("/roomcast/")) return readFileSync(new URL(`node_modules${path}`, import.meta.url), "utf8");
  return example(path.split("/").at(-1), room);
}

/** On all servers and devices. */
async function disconnect(user) {
  const { host } = new URL(CHAT_URL);
  await fetch(`http://${host}/api/users/${encodeURIComponent(user)}/disconnect`, {
    method: "POST",
    headers: { "x-api-key": CHAT_KEY, "content-type": "application/json" },
    body: JSON.stringify({ reason: "logged_out" }),
  });
}

/** The user of the session, and the lifetime of its tokens. */
function sessionOf(cookie) {
  const [, name, lifetime] = /session=([^;]+?)-(-?\d+)(?=;|$)/.exec(cookie) ?? [];
  return { user: name && decodeURIComponent(name), lifetime };
}

const escapeHtml = (text) => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);

async function answer({ url, headers, method }) {
  const { pathname, searchParams } = new URL(url, "http://app.example");
  const { user, lifetime } = sessionOf(headers.cookie);
  // A page asks for its own user. Another one may have logged in since it was loaded.
  const isOther = !user || (searchParams.get("user") ?? user) !== user;
  const setSession = (session) => ({ "set-cookie": `session=${session}; Path=/; HttpOnly` });
  switch (pathname) {
    case "/login": {
      const name = searchParams.get("user");
      if (!name) return { text: "Log in" };
      return { text: "", headers: setSession(`${encodeURIComponent(name)}-${searchParams.get("lifetime") ?? 3_600}`) };
    }
    case "/logout":
      if (method !== "POST") return { status: 405, text: "" };
      if (isOther) return { status: 401, text: "" };
      if (CHAT_KEY) await disconnect(user);
      return { text: "", headers: setSession("; Max-Age=0") };
    case "/chat-token":
      if (isOther) return { status: 401, text: "" };
      given += 1;
      return { text: tokenOf(user, Number(lifetime)) };
    case "/favicon.ico":
      return { text: "" };
    case "/count":
      return { text: String(given) };
  }
  const script = PAGES[pathname];
  const room = searchParams.get("room") ?? undefined;
  const src = room ? `/${script}?room=${room}` : `/${script}`;
  const page = () => example("page.html").replace("/page.js", src).replace('"ann"', () => `"${escapeHtml(user ?? "")}"`);
  const text = script ? page() : fileOf(pathname, room);
  const control = searchParams.has("no-store") ? { "cache-control": "no-store" } : {};
  const type = TYPES[script ? "html" : pathname.split(".").at(-1)];
  return { text, headers: { "content-type": type, "content-security-policy": POLICY, ...control } };
}

const server = createServer(async (request, response) => {
  const found = await answer(request).catch(() => ({ status: 404, text: "" }));
  response.writeHead(found.status ?? 200, { "content-type": "text/plain", ...found.headers }).end(found.text);
});
server.listen(0, "localhost", () => console.log(`http://localhost:${server.address().port}`));
