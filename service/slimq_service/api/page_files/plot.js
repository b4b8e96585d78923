// A plot of variants: something against bytes on a logarithmic axis, with intervals.

import { svg } from "./dom.js";
import { size } from "./format.js";

const MARGIN = { top: 16, right: 18, bottom: 44, left: 62 };
const LABEL = { width: 7, height: 13 };

/** About `count` round numbers from `low` to `high`. */
export function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, index) => Number(((first + index) * step).toPrecision(12)));
}

/** Powers of 10, with 2 and 5 between them where there are few. */
export function logTicks(low, high, most) {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const decades = Array.from({ length: last - first + 1 }, (_, index) => 10 ** (first + index));
  const within = (values) => values.filter((value) => value >= low && value <= high);
  const fine = within(decades.flatMap((one) => [one, 2 * one, 5 * one]));
  return fine.length <= most ? fine : within(decades);
}

/** The points that no smaller one beats: `better(one, other)` compares their values. */
export function frontier(points, better) {
  const found = [];
  for (const point of [...points].sort((one, other) => one.bytes - other.bytes)) {
    if (!found.length || better(point.value, found.at(-1).value)) found.push(point);
  }
  return found;
}

function scales(points, { width, height, log, lines, floor }) {
  const bytes = points.map((point) => point.bytes);
  const [least, most] = [Math.min(...bytes) / 1.5, Math.max(...bytes) * 1.5];
  const shown = floor === null ? points : points.filter(({ value }) => value >= floor);
  const ends = shown.flatMap(({ value, low, high }) => [low ?? value, high ?? value]).concat(lines.map(({ value }) => value));
  let [bottom, top] = [Math.min(...ends), Math.max(...ends)];
  if (log) [bottom, top] = [bottom / 1.3, top * 1.3];
  else if (floor !== null) [bottom, top] = [floor - (top - floor) * 0.12, top + (top - floor) * 0.06];
  else {
    const room = (top - bottom || Math.abs(top) || 1) * 0.08;
    [bottom, top] = [bottom - room, top + room];
  }
  const inner = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
  const part = (value, low, high, logarithmic) =>
    logarithmic ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
  return {
    x: (value) => MARGIN.left + inner.width * part(value, least, most, true),
    y: (value) => MARGIN.top + inner.height * (1 - part(value, bottom, top, log)),
    floor: bottom + (top - bottom) * 0.05,
    xTicks: logTicks(least, most, width / 70),
    yTicks: log ? logTicks(bottom, top, 8) : ticks(bottom, top, 5),
  };
}

function axes(scale, { width, height, label, format }) {
  const [left, right, bottom] = [MARGIN.left, width - MARGIN.right, height - MARGIN.bottom];
  const parts = [];
  for (const value of scale.yTicks) {
    const y = scale.y(value);
    parts.push(svg("line", { class: "grid", x1: left, x2: right, y1: y, y2: y }));
    parts.push(svg("text", { class: "tick end", x: left - 8, y: y + 4 }, format(value)));
  }
  for (const value of scale.xTicks) {
    const x = scale.x(value);
    parts.push(svg("line", { class: "axis", x1: x, x2: x, y1: bottom, y2: bottom + 4 }));
    parts.push(svg("text", { class: "tick middle", x, y: bottom + 18 }, size(value)));
  }
  parts.push(svg("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
  parts.push(svg("text", { class: "name end", x: right, y: height - 6 }, "bytes on disk, logarithmic"));
  parts.push(svg("text", { class: "name", x: left, y: 10 }, label));
  return parts;
}

/** The shape of a verdict around a place. */
export function shape(verdict, x, y) {
  if (verdict === "robust") return svg("path", { class: "mark good", d: `M${x} ${y - 7}l7 7-7 7-7-7z` });
  if (verdict === "open") return svg("rect", { class: "mark muted", x: x - 5, y: y - 5, width: 10, height: 10 });
  return svg("circle", { class: `mark ${verdict === "kept" ? "accent" : "bad"}`, cx: x, cy: y, r: 5.5 });
}

function overlaps(one, other) {
  return one.x < other.x + other.width && other.x < one.x + one.width && one.y < other.y + other.height && other.y < one.y + one.height;
}

/** Places the names of points where there is room, those of `first` before the others. */
function labels(points, first, scale, width, height) {
  const taken = points.map((point) => ({ x: scale.x(point.bytes) - 7, y: scale.y(point.value) - 7, width: 14, height: 14 }));
  for (const { bytes, low, high } of points.filter((point) => typeof point.low === "number")) {
    taken.push({ x: scale.x(bytes) - 5, y: scale.y(high) - 1, width: 10, height: scale.y(low) - scale.y(high) + 2 });
  }
  const order = [...first, ...points.filter((point) => !first.includes(point))];
  return order.flatMap((point) => {
    const [x, y, wide] = [scale.x(point.bytes), scale.y(point.value), point.name.length * LABEL.width];
    const places = [[x - wide / 2, y - 24], [x - wide / 2, y + 10], [x + 10, y - 7], [x - 10 - wide, y - 7], [x + 8, y - 22], [x + 8, y + 8], [x - 8 - wide, y - 22], [x - 8 - wide, y + 8]];
    for (const [left, top] of places) {
      const box = { x: left, y: top, width: wide, height: LABEL.height };
      const inside = left >= MARGIN.left && left + wide <= width && top >= MARGIN.top && top + LABEL.height <= height - MARGIN.bottom;
      if (!inside || taken.some((other) => overlaps(box, other))) continue;
      taken.push(box);
      return [svg("text", { class: "label", x: left, y: top + 11, "aria-hidden": "true" }, point.name)];
    }
    return [];
  });
}

/** A point far below the others, which stands at the bottom with an arrow. */
function below(point, bottom) {
  return { ...point, value: bottom, low: null, high: null, name: `${point.name} ↓` };
}

function mark(point, scale) {
  const [x, y] = [scale.x(point.bytes), scale.y(point.value)];
  const parts = [svg("title", {}, point.text)];
  if (point.low !== null && point.low !== undefined) {
    parts.push(svg("path", { class: "interval", d: `M${x} ${scale.y(point.low)}V${scale.y(point.high)}m-4 0h8M${x - 4} ${scale.y(point.low)}h8` }));
  }
  parts.push(svg("rect", { class: "touch", x: x - 12, y: y - 12, width: 24, height: 24 }), shape(point.verdict, x, y));
  return svg("a", { href: point.link, "aria-label": point.text }, parts);
}

/**
 * Draws a plot of this width.
 *
 * `points` are `{name, bytes, value, low, high, verdict, text, link}`; options: `id`, `title`,
 * `description`, `label` of the vertical axis, `format` of its values, `log`, `better(one, other)`
 * `lines`, `{name, value}` across the plot, and `floor`, below which points stand at the bottom.
 */
export function plot(given, width, options) {
  const height = Math.max(260, Math.min(360, width * 0.62));
  const made = { lines: [], log: false, floor: null, ...options, width, height };
  const scale = scales(given, made);
  const points = given.map((point) => (made.floor !== null && point.value < made.floor ? below(point, scale.floor) : point));
  const best = frontier(points, made.better);
  const path = best.map((point, index) => {
    const [x, y] = [scale.x(point.bytes), scale.y(point.value)];
    return index ? `H${x}V${y}` : `M${x} ${y}`;
  });
  const across = made.lines.map(({ name, value }) => [
    svg("line", { class: "across", x1: MARGIN.left, x2: width - MARGIN.right, y1: scale.y(value), y2: scale.y(value) }),
    svg("text", { class: "tick end", x: width - MARGIN.right, y: scale.y(value) - 5 }, name),
  ]);
  return svg(
    "svg",
    { class: "plot", role: "group", width, height, viewBox: `0 0 ${width} ${height}`, "aria-labelledby": `${made.id}-title`, "aria-describedby": `${made.id}-description` },
    svg("title", { id: `${made.id}-title` }, made.title),
    svg("desc", { id: `${made.id}-description` }, made.description),
    axes(scale, made),
    across,
    svg("path", { class: "frontier", d: path.join("") }),
    labels(points, best, scale, width, height),
    points.map((point) => mark(point, scale)),
  );
}
