// Elements, and what they say. Text from others only ever becomes text nodes.

import { serverNow } from "./clock.js";

export function byId(id) {
  return document.getElementById(id);
}

/** Makes an element: `make("span", { class: "time", title }, "12:30")`. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const COLOR = /^#[0-9a-f]{6}$/i;

/** Gives an element the colour of a user; the style sheet makes it readable. */
export function paint(element, user) {
  if (COLOR.test(user.color)) element.style.setProperty("--user", user.color);
  return element;
}

/** A disc with the initial of a user. */
export function avatar(user) {
  const [initial = "?"] = user.name.trim();
  return paint(make("span", { class: "avatar", "aria-hidden": "true" }, initial.toUpperCase()), user);
}

const LINK = /\bhttps?:\/\/[^\s<>"']*[^\s<>"'.,;:!?)\]}]/gi;

/** Text with its web addresses as links. */
export function linked(text) {
  const parts = [];
  let end = 0;
  for (const { 0: url, index } of text.matchAll(LINK)) {
    const link = { href: url, target: "_blank", rel: "noopener noreferrer nofollow ugc" };
    parts.push(text.slice(end, index), make("a", link, url));
    end = index + url.length;
  }
  parts.push(text.slice(end));
  return parts;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

export function time(at) {
  const date = new Date(at);
  const attributes = { datetime: date.toISOString(), title: full.format(date) };
  return make("time", attributes, clock.format(date));
}

export function isSameDay(a, b) {
  return new Date(a).toDateString() === new Date(b).toDateString();
}

export function day(at) {
  const daysAgo = [0, 1].find((days) => isSameDay(at, serverNow() - days * 86_400_000));
  return ["Today", "Yesterday"][daysAgo] ?? calendar.format(new Date(at));
}

/** "Ann", "Ann and Bob", "Ann, Bob and 3 others" */
export function names(users) {
  const [first, second] = users.map((user) => user.name);
  if (users.length <= 1) return first ?? "";
  if (users.length === 2) return `${first} and ${second}`;
  const others = users.length - 2;
  return `${first}, ${second} and ${others} other${others === 1 ? "" : "s"}`;
}
