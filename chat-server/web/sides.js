// What stands beside the messages: the rooms, the people, who types.

import { avatar, byId, make, names, paint } from "./dom.js";

/** The rooms' buttons, which keep the focus while their texts change. */
const buttons = new Map();

export function showRooms(rooms, current, onChoose) {
  const list = byId("rooms");
  for (const [room, button] of buttons) {
    if (rooms.includes(room)) continue;
    button.parentElement.remove();
    buttons.delete(room);
  }
  for (const room of rooms) {
    if (!buttons.has(room)) {
      const button = roomButton(room, onChoose);
      buttons.set(room, button);
      list.append(make("li", {}, button));
    }
    update(buttons.get(room), room, room === current);
  }
}

function roomButton(room, onChoose) {
  const button = make("button", { type: "button", title: room.id });
  button.append(make("span", { class: "room-name" }, room.id), make("span", { class: "badge" }));
  button.addEventListener("click", () => onChoose(room));
  return button;
}

function update(button, room, isCurrent) {
  const wasCurrent = button.hasAttribute("aria-current");
  if (isCurrent && !wasCurrent) {
    button.setAttribute("aria-current", "page");
    button.scrollIntoView({ block: "nearest", inline: "nearest" });
  } else if (!isCurrent) {
    button.removeAttribute("aria-current");
  }
  const badge = button.lastElementChild;
  badge.hidden = room.unread === 0;
  badge.textContent = room.unread > 99 ? "99+" : String(room.unread);
  if (room.unread > 0) badge.append(make("span", { class: "hidden" }, " unread"));
}

let shown = null;

export function showMembers({ members, count }, me) {
  byId("people").textContent = count === 1 ? "1 person" : `${count} people`;
  byId("count").textContent = String(count);
  if (members === shown) return;
  shown = members;
  const rows = [...members]
    .sort((a, b) => (b.id === me?.id) - (a.id === me?.id) || a.name.localeCompare(b.name))
    .map((user) => memberRow(user, user.id === me?.id));
  const more = count - members.length;
  if (more > 0) rows.push(make("li", { class: "muted more" }, `and ${more} more`));
  byId("member-list").replaceChildren(...rows);
}

function memberRow(user, isMe) {
  const name = paint(make("span", { class: "name" }, user.name), user);
  const row = make("li", {}, avatar(user), name);
  if (isMe) row.append(make("span", { class: "muted" }, "you"));
  return row;
}

export function showTypists({ typists }) {
  const verb = typists.length === 1 ? "is" : "are";
  byId("typing").textContent = typists.length > 0 ? `${names(typists)} ${verb} typing …` : "";
}
