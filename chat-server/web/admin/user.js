// One user: where it is connected, and what it is banned from.

import { userPath } from "./api.js";
import { listOfBans, unban } from "./bans.js";
import { button, field, make, muted, number, section, update } from "./elements.js";
import { askForSanction } from "./sanctions.js";

const REFRESH_MS = 5000;

/** Asks which user. */
export function users({ view, go }) {
  view.append(make("h1", {}, "Users"), field("The id of a user", "user", "Open", (user) => user && go(userPath(user))));
}

export function user({ view, api, has, attempt, repeat }, id) {
  const facts = make("p", { "data-testid": "facts" });
  const bans = make("div");
  view.append(make("h1", { "data-testid": "title" }, id), facts, section("Actions", ...actions()), section("Bans", bans));
  if (!has("moderate")) bans.append(muted("The list of bans needs a key with the scope moderate."));

  const load = async (signal) => {
    const [state, banned] = await Promise.all([
      api.get(userPath(id), {}, signal),
      has("moderate") ? api.get("/bans", { user: id }, signal) : undefined,
    ]);
    facts.textContent =
      state.servers > 0
        ? `Online, on ${number(state.servers)} ${state.servers === 1 ? "server" : "servers"}; ${number(state.connections)} connections to this one.`
        : "Not online.";
    if (banned) update(bans, banned.bans, (found) => listOfBans(found, end));
  };
  repeat(REFRESH_MS, load);

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
