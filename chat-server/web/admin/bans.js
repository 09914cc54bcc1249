// The bans.

import { roomPath, userPath } from "./api.js";
import { button, isolated, linkToRoom, linkToUser, make, muted, named, table, time } from "./elements.js";
import { askForSanction } from "./sanctions.js";

const PAGE = 100;

export function bans({ view, api, has, attempt, act, signal }) {
  const list = make("div");
  view.append(make("h1", {}, "Bans"), list);
  if (!has("moderate")) return list.append(muted("The list of bans needs a key with the scope moderate."));
  let found = [];
  const load = async (after) => {
    const page = await api.get("/bans", { after, limit: PAGE }, signal);
    found = [...(after ? found : []), ...page.bans];
    const next = page.next && button("More", "more", () => attempt(() => load(page.next)), "");
    list.replaceChildren(listOfBans(found, end), ...(next ? [next] : []));
  };
  const end = async (ban) => {
    if (await unban(api, act, ban)) await attempt(load);
  };
  attempt(load);
}

/** Asks, and ends a ban. Returns whether it has ended. */
export async function unban(api, act, { user, room }) {
  const title = ["Unban ", isolated(user), " from ", room ? isolated(room) : "all servers"];
  if (!(await askForSanction({ title, action: "Unban", timed: false, reasoned: false }))) return false;
  return act("Unbanning the user", () => (room ? api.post(roomPath(room, "/unban"), { user }) : api.post(userPath(user, "/unban"))));
}

export function listOfBans(bans, end) {
  const rows = bans.map((ban) => [
    [
      ...named(
        linkToUser(ban.user),
        make("span", {}, "from ", ban.room ? linkToRoom(ban.room) : "all servers"),
        make("span", {}, "until ", ban.until ? time(ban.until) : "an unban"),
        make("span", {}, ...imposed(ban)),
      ),
      make("p", { class: "wrapped" }, ban.reason ? `Reason: ${ban.reason}` : ""),
    ],
    button("Unban", `unban-${ban.user}`, () => end(ban)),
  ]);
  return table("bans", ["@User", "Actions"], rows, "There are no bans.");
}

/** By whom a ban is, and since when. A server of an earlier version has stored neither. */
function imposed({ by, key, moderator, at }) {
  const known = {
    key: ["by the key ", isolated(key ?? "")],
    moderator: ["by the user ", linkToUser(moderator ?? "")],
    application: ["by the application"],
  };
  const author = known[by] ?? ["by whom is not known"];
  return at ? [...author, ", since ", time(at)] : author;
}
