// One user: where it is connected, and what it is banned from.

import { settled, userPath } from "./api.js";
import { listOfBans, unban } from "./bans.js";
import { button, counted, field, isolated, linkToRoom, linkToUser, make, muted, named, number, section, table, time, update } from "./elements.js";
import { askForSanction } from "./sanctions.js";
import { elsewhere, nameOf, wayTo } from "./servers.js";

const REFRESH_MS = 5000;

/** Asks which user. */
export function users({ view, go }) {
  const search = field("The id of a user, the beginning of one, or a part of a name", "user", "Open", (user) => user && go(userPath(user)));
  view.append(make("h1", {}, "Users"), search);
}

export function user({ view, api, has, attempt, act, repeat, signal: shown }, id) {
  const facts = make("p", { "data-testid": "facts" });
  const similar = make("div", { class: "stack", "data-testid": "similar" });
  const connections = make("div");
  const bans = make("div");
  let isOnline = false;
  let hasSearched = false;
  const parts = [section("Connections", connections), section("Actions", ...actions()), section("Bans", bans)];
  view.append(make("h1", { "data-testid": "title" }, id), facts, similar, ...parts);
  if (!has("admin")) connections.append(muted("The list of connections needs a key with the scope admin."));
  if (!has("moderate")) bans.append(muted("The list of bans needs a key with the scope moderate."));

  const load = (signal) => {
    const state = has("read") ? api.get(userPath(id), {}, signal) : undefined;
    const located = has("admin") ? api.get(userPath(id, "/connections"), {}, signal) : undefined;
    return settled([showFacts(state, located, signal), showConnections(state, located, signal), showBans(signal)]);
  };
  repeat(REFRESH_MS, load);

  async function showFacts(state, located, signal) {
    if (!state) return facts.replaceChildren("Whether the user is online is shown to a key with the scope read.");
    const { servers, connections: here, name } = await state;
    const others = (await located?.catch(() => undefined))?.others ?? [];
    const known = name ?? others[0]?.name;
    isOnline = servers + here > 0;
    facts.replaceChildren(...(known && known !== id ? [make("strong", {}, isolated(known)), ". "] : []), presence(servers, here));
    if (isOnline) similar.replaceChildren();
    else if (!hasSearched) await showSimilar(signal);
  }

  /** Ids are matched whole: what was typed may be a part of one, or a name. */
  async function showSimilar(signal) {
    const found = await api.get("/users", { search: id }, signal);
    hasSearched = true;
    similar.replaceChildren(...listOfSimilar(found));
  }

  async function showConnections(state, located, signal) {
    if (!located) return;
    const [{ servers } = { servers: 0 }, found] = await Promise.all([state, located]);
    const silent = servers - found.others.length - (found.count > 0 ? 1 : 0);
    const { nodes } = silent > 0 ? await api.get("/nodes", {}, signal) : { nodes: [] };
    update(connections, { found, nodes, silent }, listOfConnections);
  }

  async function showBans(signal) {
    if (!has("moderate")) return;
    const { bans: found } = await api.get("/bans", { user: id }, signal);
    update(bans, found, (list) => listOfBans(list, end));
  }

  /** Shows what an action has changed, if it succeeded. */
  const follow = async (action) => {
    if (await action) await attempt(() => load(shown));
  };

  function end(ban) {
    return follow(unban(api, act, ban));
  }

  function actions() {
    const found = [];
    if (has("send")) {
      const send = (message, input) =>
        message && act("Sending the message", async () => {
          const { delivered } = await api.post(userPath(id, "/messages"), { message });
          input.value = delivered > 0 ? "" : message;
          input.setCustomValidity(delivered > 0 ? "" : "The user is not connected, and has not received it.");
          input.reportValidity();
          input.addEventListener("input", () => input.setCustomValidity(""), { once: true });
        });
      found.push(field("A direct message from this key", "message", "Send", send));
    }
    if (has("moderate")) {
      const disconnect = async (options, ban) => {
        const note = isOnline || !has("read") ? "" : "No user with this id is online. Ids are matched whole: check that it is complete.";
        const given = await askForSanction({ ...options, note, timed: ban });
        const what = ban ? "Banning the user" : "Disconnecting the user";
        if (given) await follow(act(what, () => api.post(userPath(id, "/disconnect"), { ...given, ban })));
      };
      found.push(
        make(
          "p",
          { class: "actions" },
          button("Disconnect", "disconnect", () => disconnect({ title: ["Disconnect ", isolated(id)], action: "Disconnect" }, false), ""),
          button("Ban from all servers", "ban", () => disconnect({ title: ["Ban ", isolated(id), " from all servers"], action: "Ban" }, true), ""),
        ),
      );
    }
    return found.length > 0 ? found : [muted("This key may do nothing with users.")];
  }
}

function presence(servers, here) {
  if (servers > 0) return `Online, on ${counted(servers, "server")}; ${counted(here, "connection")} to this one.`;
  if (here > 0) return `Online: ${counted(here, "connection")} to this server, without direct messages.`;
  return "Not online.";
}

function listOfSimilar({ users: found, more, ...server }) {
  const rows = found.map((user) => [named(linkToUser(user.id, user.name), user.name !== user.id && user.id)]);
  const none = "No user who is connected to this server has an id that begins so, or a name with it.";
  const which = muted(`An id is matched whole, and nobody with exactly this one is online. Connected to this server, ${nameOf(server)}, with an id that begins so, or a name with it:`);
  const list = table("found", ["@User"], rows, none);
  return [which, list, ...(more ? [muted("There are more: type more of the id or of the name.")] : [])];
}

function listOfConnections({ found, nodes, silent }) {
  const rows = found.connections.map(({ connection, name, address, since, room_count: count, rooms }) => {
    const links = rooms.flatMap((room) => [" ", linkToRoom(room)]);
    const more = count > rooms.length ? ` and ${number(count - rooms.length)} more` : "";
    const inRooms = make("p", { class: "wrapped" }, count > 0 ? "in" : "in no room", ...links, more);
    const as = make("span", {}, "as ", isolated(name));
    return [[...named(connection, as, address, make("span", {}, "since ", time(since))), inRooms]];
  });
  const here = `this server, ${nameOf(found)}`;
  const list = table("connections", ["@Connection"], rows, `The user has no connection to ${here}.`);
  const count = found.count > rows.length ? `: the ${number(rows.length)} oldest of ${number(found.count)}` : "";
  const which = rows.length > 0 ? [muted(`Those to ${here}${count}.`)] : [];
  return make("div", { class: "stack" }, list, ...which, ...listOfOthers(found.others), ...silentServers(nodes, found.node, silent));
}

/** The other servers that have the user, with the way to the same page there. */
function listOfOthers(others) {
  return others.map((server, index) => {
    const what = `${counted(server.count, "connection")} to ${nameOf(server)}, as `;
    return make("p", { "data-testid": "other" }, what, isolated(server.name), ". The way to its page: ", ...wayTo(server, index));
  });
}

/** Servers that have the user and have not said so: of an earlier version, or too slow. */
function silentServers(nodes, here, silent) {
  if (silent <= 0) return [];
  const text = `${counted(silent, "more server")} with the user, which did not answer when asked. `;
  return [make("p", { "data-testid": "silent" }, text), ...elsewhere(nodes, here)];
}
