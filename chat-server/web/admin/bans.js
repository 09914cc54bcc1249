// The bans.

import { roomPath, userPath } from "./api.js";
import { button, isolated, linkToRoom, linkToUser, make, muted, named, table, time } from "./elements.js";

const PAGE = 100;

export function bans({ view, api, has, attempt, signal }) {
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
  const end = (ban) =>
    attempt(async () => {
      await unban(api, ban);
      await load();
    });
  attempt(load);
}

/** Ends a ban. */
export function unban(api, { user, room }) {
  return room ? api.post(roomPath(room, "/unban"), { user }) : api.post(userPath(user, "/unban"));
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
