// The rooms that have users.

import { roomPath } from "./api.js";
import { button, field, linkToRoom, make, muted, named, number, table } from "./elements.js";

const PAGE = 100;

export function rooms({ view, api, has, attempt, go, signal }) {
  if (!has("read")) return view.append(make("h1", {}, "Rooms"), muted("The list of rooms needs a key with the scope read."));
  const list = make("div");
  let prefix = "";
  let found = [];
  const load = async (after) => {
    const page = await api.get("/rooms", { prefix, after, limit: PAGE }, signal);
    found = [...(after ? found : []), ...page.rooms];
    const rows = found.map(({ room, count }) => [named(linkToRoom(room)), number(count)]);
    const next = page.next && button("More", "more", () => attempt(() => load(page.next)), "");
    const none = prefix ? "No room whose name begins so has users." : "No room has users.";
    list.replaceChildren(table("rooms", ["@Room", "#Users"], rows, none), ...(next ? [next] : []));
  };
  const search = field("Names that begin with", "prefix", "List", (text) => {
    prefix = text;
    attempt(load);
  });
  const open = field("A room", "room", "Open", (room) => room && go(roomPath(room)));
  view.append(make("h1", {}, "Rooms"), make("div", { class: "fields" }, search, open), list);
  attempt(load);
}
