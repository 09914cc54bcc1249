// Plots of the last ten minutes, as SVG.

import { make } from "./elements.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [300, 72];
const SPAN_MS = 600_000;

/** The time of a sample. */
const SAMPLE_MS = 5000;

/** A plot up to the time `end`, with its name, its value at that time and its scale; `write` turns a value into text. */
export function plot(id, title, points, write, end) {
  const top = scale(Math.max(...points.map(({ value }) => value)));
  const latest = points.at(-1);
  const now = latest.at === end ? write(latest.value) : "none";
  const drawing = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": `${title}: now ${now}, at most ${write(top)} in the last ten minutes`,
  });
  if (points.length > 1) drawing.append(...shapes(points, top, end));
  const caption = make("figcaption", {}, make("span", {}, title), make("strong", {}, now));
  const axis = make("p", { class: "axis", "aria-hidden": "true" }, make("span", {}, "10 min ago"), make("span", {}, `top: ${write(top)}`));
  return make("figure", { class: "plot", "data-testid": id }, caption, drawing, axis);
}

/** A shape for each part of the time that has figures: nothing is known of the rest. */
function shapes(points, top, end) {
  return unbroken(points).flatMap((part) => shapesOf(part, top, end));
}

/** The points in lists of those between which no sample is missing. */
function unbroken(points) {
  const parts = [];
  points.forEach((point, index) => {
    if (index === 0 || point.at - points[index - 1].at > 1.5 * SAMPLE_MS) parts.push([]);
    parts.at(-1).push(point);
  });
  return parts;
}

function shapesOf(part, top, end) {
  // One sample alone is drawn over its time.
  const points = part.length > 1 ? part : [{ ...part[0], at: part[0].at - SAMPLE_MS }, ...part];
  const x = ({ at }) => WIDTH - ((end - at) / SPAN_MS) * WIDTH;
  const y = ({ value }) => HEIGHT - 1 - (value / top) * (HEIGHT - 4);
  const line = points.map((point) => `${x(point).toFixed(1)},${y(point).toFixed(1)}`);
  const area = [`${x(points[0]).toFixed(1)},${HEIGHT}`, ...line, `${x(points.at(-1)).toFixed(1)},${HEIGHT}`];
  return [
    svg("polygon", { points: area.join(" "), class: "area" }),
    svg("polyline", { points: line.join(" "), class: "line" }),
  ];
}

/** The next of 1, 2, 5, 10, … at or above the greatest value. */
function scale(greatest) {
  if (greatest <= 0) return 1;
  const unit = 10 ** Math.floor(Math.log10(greatest));
  return [1, 2, 5, 10].map((step) => step * unit).find((step) => step >= greatest);
}

function svg(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
