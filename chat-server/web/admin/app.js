// The page for operators: the key, the addresses of its views, and what they share.

import { Api, ApiError } from "./api.js";
import { bans } from "./bans.js";
import { byId } from "./elements.js";
import { overview } from "./overview.js";
import { room } from "./room.js";
import { rooms } from "./rooms.js";
import { closeSanction } from "./sanctions.js";
import { KnownServers } from "./servers.js";
import { user, users } from "./user.js";

const STORAGE = "chat-admin-key";

/** The views by their addresses; what an address has behind a `/` is a name. */
const VIEWS = new Map(Object.entries({ "": overview, rooms, "rooms/": room, users, "users/": user, bans }));

let session;
let shown = new AbortController();

byId("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  await logIn(byId("key").value.trim());
});
byId("logout").addEventListener("click", () => logOut());
byId("failure-close").addEventListener("click", () => {
  show("failure");
  focusView();
});
window.addEventListener("hashchange", () => {
  if (!session) return;
  showView();
  focusView();
});

const kept = sessionStorage.getItem(STORAGE);
if (kept) await logIn(kept);
else logOut();

async function logIn(key) {
  const api = new Api(key);
  try {
    session = { api, key: await api.get("/key"), servers: new KnownServers() };
  } catch (error) {
    logOut(inWords(error));
    // A server that does not answer has not refused the key.
    if (error.status !== 401) keep(key);
    return;
  }
  sessionStorage.setItem(STORAGE, key);
  byId("key").value = "";
  byId("login").hidden = true;
  byId("page").hidden = false;
  byId("key-name").textContent = session.key.name;
  byId("scopes").textContent = session.key.scopes.join(", ");
  showView();
}

/** For another attempt, also after a reload. */
function keep(key) {
  sessionStorage.setItem(STORAGE, key);
  byId("key").value = key;
}

function logOut(why = "") {
  shown.abort();
  closeSanction();
  session = undefined;
  sessionStorage.removeItem(STORAGE);
  byId("page").hidden = true;
  byId("login").hidden = false;
  byId("login-error").textContent = why;
  byId("key").focus();
}

function inWords(error) {
  if (!(error instanceof ApiError)) return `This page failed: ${error.message}`;
  if (error.status === 404) return "The server has no API key: set CHAT_API_KEY, or keys in its configuration file.";
  return error.message;
}

/** Shows the view of the address. The requests of the one before are aborted. */
function showView() {
  shown.abort();
  shown = new AbortController();
  closeSanction();
  show("problem");
  show("failure");
  const [, path, name] = /^#?\/?([^/]*\/?)(.*)$/.exec(location.hash);
  const view = byId("view");
  view.replaceChildren();
  view.classList.remove("stale");
  const key = name ? path : path.replace(/\/$/, "");
  (VIEWS.get(key) ?? overview)(context(view, shown.signal), decode(name));
  for (const link of document.querySelectorAll("nav a")) {
    const isHere = link.hash.slice(2) === path.replace(/\/$/, "");
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  // Tells tabs and entries of the history apart.
  document.title = `${view.querySelector("h1").textContent} · ${location.host}`;
}

/** The link that was followed may be gone: the keyboard goes on from the heading, which a screen reader reads. */
function focusView() {
  const heading = byId("view").querySelector("h1");
  heading?.setAttribute("tabindex", "-1");
  heading?.focus();
}

function decode(name) {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

/** What a view gets: where it is shown, the calls, and how it runs them. */
function context(view, signal) {
  const attempt = async (action) => {
    try {
      await action();
      view.classList.remove("stale");
      show("problem");
      return true;
    } catch (error) {
      if (signal.aborted) return false;
      // Nothing on the page is true any longer for certain.
      view.classList.toggle("stale", error.status === 0);
      if (error.status === 401) logOut(inWords(error));
      else show("problem", inWords(error));
      return false;
    }
  };
  /** Runs what the operator has asked for, and returns whether it succeeded. That it failed is shown until the next
   *  action: what the page reads meanwhile says nothing about it. `what` begins a sentence. */
  const act = async (what, action) => {
    show("failure");
    try {
      await action();
      return true;
    } catch (error) {
      if (signal.aborted) return false;
      if (error.status === 401) logOut(inWords(error));
      else show("failure", `${what} failed: ${inWords(error)}${outcomeOf(error)}`);
      return false;
    }
  };
  /** Runs an action at once and then each `ms` after its end, while the view is shown and seen. */
  const repeat = async (ms, action) => {
    while (!signal.aborted) {
      if (!document.hidden) await attempt(() => action(signal));
      await new Promise((resolve) => setTimeout(resolve, ms));
    }
  };
  return {
    view,
    signal,
    api: session.api,
    servers: session.servers,
    attempt,
    act,
    repeat,
    has: (scope) => session.key.scopes.includes(scope),
    isForAll: session.key.rooms.includes("*"),
    go: (path) => (location.hash = `#${path}`),
  };
}

/** What is known of an action without an answer. An answer says so itself. */
function outcomeOf(error) {
  return error.status === 0 ? " It is unknown whether it was carried out." : "";
}

/** Shows why the page cannot read, as `problem`, or what action has failed, as `failure`; without a text, hides it. */
function show(id, text = "") {
  (byId(`${id}-text`) ?? byId(id)).textContent = text;
  byId(id).hidden = text === "";
}
