// One user: where it is connected, and what it is banned from.

import { userPath } from "./api.js";
import { listOfBans, unban } from "./bans.js";
import { button, field, linkToRoom, make, muted, named, number, section, table, time, update } from "./elements.js";
import { askForSanction } from "./sanctions.js";
import { elsewhere, nameOf } from "./servers.js";

const REFRESH_MS = 5000;

/** Asks which user. */
export function users({ view, go }) {
  view.append(make("h1", {}, "Users"), field("The id of a user", "user", "Open", (user) => user && go(userPath(user))));
}

export function user({ view, api, has, attempt, repeat }, id) {
  const facts = make("p", { "data-testid": "facts" });
  const connections = make("div");
  const bans = make("div");
  const parts = [section("Connections", connections), section("Actions", ...actions()), section("Bans", bans)];
  view.append(make("h1", { "data-testid": "title" }, id), facts, ...parts);
  if (!has("admin")) connections.append(muted("The list of connections needs a key with the scope admin."));
  if (!has("moderate")) bans.append(muted("The list of bans needs a key with the scope moderate."));

  const load = async (signal) => {
    const [state, banned] = await Promise.all([
      api.get(userPath(id), {}, signal),
      has("moderate") ? api.get("/bans", { user: id }, signal) : undefined,
    ]);
    facts.textContent =
      state.servers > 0
        ? `Online, on ${number(state.servers)} ${state.servers === 1 ? "server" : "servers"}; ${number(state.connections)} ${state.connections === 1 ? "connection" : "connections"} to this one.`
        : "Not online.";
    if (has("admin")) await showConnections(state.servers, signal);
    if (banned) update(bans, banned.bans, (found) => listOfBans(found, end));
  };
  repeat(REFRESH_MS, load);

  async function showConnections(servers, signal) {
    const found = await api.get(userPath(id, "/connections"), {}, signal);
    const isElsewhere = servers > (found.count > 0 ? 1 : 0);
    const { nodes } = isElsewhere ? await api.get("/nodes", {}, signal) : { nodes: [] };
    update(connections, { found, nodes }, listOfConnections);
  }

  const change = (call) =>
    attempt(async () => {
      await call();
      await load();
    });

  function end(ban) {
    return change(() => unban(api, ban));
  }

  function actions() {
    const found = [];
    if (has("send")) {
      const send = (message, input) =>
        message && attempt(async () => {
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
        const given = await askForSanction({ ...options, timed: ban });
        if (given) await change(() => api.post(userPath(id, "/disconnect"), { ...given, ban }));
      };
      found.push(
        make(
          "p",
          { class: "actions" },
          button("Disconnect", "disconnect", () => disconnect({ title: `Disconnect ${id}`, action: "Disconnect" }, false), ""),
          button("Ban from all servers", "ban", () => disconnect({ title: `Ban ${id} from all servers`, action: "Ban" }, true), ""),
        ),
      );
    }
    return found.length > 0 ? found : [muted("This key may do nothing with users.")];
  }
}

function listOfConnections({ found, nodes }) {
  const rows = found.connections.map(({ connection, address, since, room_count: count, rooms }) => {
    const links = rooms.flatMap((room) => [" ", linkToRoom(room)]);
    const more = count > rooms.length ? ` and ${number(count - rooms.length)} more` : "";
    const inRooms = make("p", { class: "wrapped" }, count > 0 ? "in" : "in no room", ...links, more);
    return [[...named(connection, address, make("span", {}, "since ", time(since))), inRooms]];
  });
  const list = table("connections", ["@Connection"], rows, "The user has no connection to this server.");
  const of = `Those to this server, ${nameOf(found)}`;
  const shown = found.count > rows.length ? `${of}: the ${number(rows.length)} oldest of ${number(found.count)}.` : `${of}.`;
  return make("div", {}, list, muted(shown), ...elsewhere(nodes, found.node));
}
