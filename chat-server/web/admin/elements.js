// Elements, and how numbers and times are written. What the server sends becomes text nodes alone.

export function byId(id) {
  return document.getElementById(id);
}

/** Makes an element: `make("td", { class: "number" }, "12")`. Handlers are attributes that begin with `on`. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const shown = new WeakMap();

/** Fills an element with what `build` makes of `data`, unless that is what it shows, or a part of it is pressed: a
 *  button that is replaced then does nothing. The focus stays. */
export function update(element, data, build) {
  const text = JSON.stringify(data);
  if (shown.get(element) === text || element.matches(":active")) return;
  shown.set(element, text);
  const focused = element.contains(document.activeElement) ? placeOf(document.activeElement) : undefined;
  element.replaceChildren(build(data));
  if (focused) focusOn(focused, element);
}

/** What a link or a button has in common with the one that replaces it. */
export function placeOf(part) {
  return part.dataset.testid ?? part.getAttribute("href") ?? undefined;
}

/** Gives the focus to the link or the button that is now at a place. */
export function focusOn(place, within) {
  const parts = [...within.querySelectorAll("a, button, [tabindex]")];
  parts.find((part) => placeOf(part) === place)?.focus();
}

/** A part of a page with a heading. */
export function section(title, ...children) {
  return make("section", {}, make("h2", {}, title), ...children);
}

export function muted(text) {
  return make("p", { class: "muted" }, text);
}

/** A table; each row has as many cells as there are columns. A column that begins with `#` has numbers; one that
 *  begins with `@` has what `named` makes, in the width that the others leave. */
export function table(id, columns, rows, none) {
  if (rows.length === 0) return make("p", { class: "muted", "data-testid": id }, none);
  const kind = (index) => ({ class: { "#": "number", "@": "named" }[columns[index][0]] });
  const labels = columns.map((name) => name.replace(/^[#@]/, ""));
  // With roles: as cards, it is no table for the browser.
  const head = labels.map((label, index) => make("th", { scope: "col", role: "columnheader", ...kind(index) }, label));
  const row = (cells) => make("tr", { role: "row" }, ...cells);
  const body = rows.map((cells) =>
    row(cells.map((cell, index) => make("td", { role: "cell", "data-label": labels[index], ...kind(index) }, ...[cell].flat()))),
  );
  const content = [make("thead", { role: "rowgroup" }, row(head)), make("tbody", { role: "rowgroup" }, ...body)];
  // On a phone a wide table is a card for each row. What is still too wide scrolls, also by the keyboard.
  const frame = { class: columns.length > 4 ? "table cards" : "table", tabindex: "0", role: "group", "aria-label": id, "data-testid": id };
  return make("div", frame, make("table", { role: "table" }, ...content));
}

/** A name with what further tells it apart below. Ids may be long: each is cut to one line, and whole as its
 *  title and when it is copied. */
export function named(name, ...details) {
  return [name, ...details].filter(Boolean).map((part, index) => {
    const title = part.textContent ?? part;
    return make("div", { class: index > 0 ? "muted line" : "line", title }, part);
  });
}

/** A name within a sentence, whose order it leaves alone if it is written from right to left. */
export function isolated(name) {
  return make("bdi", {}, name);
}

export function linkToRoom(room) {
  return make("a", { href: `#/rooms/${encodeURIComponent(room)}` }, room);
}

export function linkToUser(user, text = user) {
  return make("a", { href: `#/users/${encodeURIComponent(user)}` }, text);
}

export function button(text, id, onclick, kind = "small") {
  return make("button", { type: "button", class: kind, "data-testid": id, onclick }, text);
}

/** A line with a field and a button. `run` gets what was written, without spaces around it. */
export function field(label, id, action, run, value = "") {
  const input = make("input", { id, value, autocomplete: "off", spellcheck: "false", "data-testid": id });
  const submit = (event) => {
    event.preventDefault();
    run(input.value.trim(), input);
  };
  const go = make("button", { type: "submit", "data-testid": `${id}-submit` }, action);
  return make("form", { class: "field", onsubmit: submit }, make("label", { for: id }, label), input, go);
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const precise = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export function number(value) {
  return Math.abs(value) >= 100 ? whole.format(value) : precise.format(value);
}

/** `1 server`, `2 servers` */
export function counted(count, what) {
  return `${number(count)} ${what}${count === 1 ? "" : "s"}`;
}

/** `1.5 MiB` */
export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit += 1) value /= 1024;
  return `${number(value)} ${units[unit]}`;
}

/** `2 d 3 h`, of milliseconds. */
export function duration(ms) {
  const seconds = Math.floor(ms / 1000);
  const parts = [
    [Math.floor(seconds / 86_400), "d"],
    [Math.floor(seconds / 3600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"],
    [seconds % 60, "s"],
  ];
  const first = parts.findIndex(([value]) => value > 0);
  return first < 0 ? "0 s" : parts.slice(first, first + 2).map(([value, unit]) => `${value} ${unit}`).join(" ");
}

const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long", hourCycle: "h23" });

/** `17:05 UTC`; the title is as that of `time`. */
export function minute(at) {
  const full = time(at);
  full.textContent = `${full.dateTime.slice(11, 16)} UTC`;
  return full;
}

/** `2027-06-30 17:05:09 UTC`, as in the log; the time of the browser is the title. */
export function time(at) {
  const date = new Date(at);
  const iso = date.toISOString();
  return make("time", { datetime: iso, title: clock.format(date) }, `${iso.slice(0, 10)} ${iso.slice(11, 19)} UTC`);
}
