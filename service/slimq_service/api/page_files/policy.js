// One policy: its Pareto plots, and the table of its variants.

import { get } from "./api.js";
import { el, panel, svg, table, whenResized } from "./dom.js";
import { between, micros, NONE, percent, points, short, size, times, whole } from "./format.js";
import { playLink, tryLink, variantLink } from "./links.js";
import { plot, shape } from "./plot.js";
import { about, NOT_PROVEN } from "./policies.js";
import { badge, MEANINGS, smallest, verdictOf } from "./verdicts.js";

/** The row of a policy in the overview. */
export async function findPolicy(name, signal) {
  const overview = await get("", { signal });
  const found = overview.policies.find((policy) => policy.name === name);
  if (found) return { ...found, plays: overview.plays };
  throw new Error(`There is no policy ${name}; available: ${overview.policies.map((policy) => policy.name).join(", ")}`);
}

export async function showPolicy({ parts: [name], signal }) {
  const policy = await findPolicy(name, signal);
  const rows = [...policy.variants].sort((one, other) => (one.bytes ?? Infinity) - (other.bytes ?? Infinity));
  const links = [el("a", { class: "button primary", href: tryLink(name) }, "Try an observation")];
  if (policy.environment) links.push(el("a", { class: "button", href: playLink(name) }, "Play two variants"));
  const nodes = [
    el("p", { class: "path" }, el("a", { href: "#/" }, "Policies"), " / "),
    el("h1", {}, name),
    el("p", { class: policy.problem ? "problem" : "lead" }, about(policy)),
    answer(policy),
    el("div", { class: "actions" }, links),
    el("div", { class: "plots" }, returns(policy, rows), latencies(policy, rows)),
    legend(rows),
    panel("Variants", variants(policy, rows)),
  ];
  if (policy.try_it) nodes.push(panel("From the command line", el("pre", { tabindex: "0", "aria-label": "Example request" }, policy.try_it)));
  return { title: name, nodes };
}

function answer(policy) {
  const least = smallest(policy.variants);
  if (!least) return null;
  const text =
    least.name === policy.baseline_variant
      ? "No smaller variant is known to play as well as "
      : `${size(least.bytes)}, ${times(least.bytes_ratio)} smaller than ${policy.baseline_variant}, and non-inferior in play: `;
  return el("p", { class: "verdict" }, text, el("a", { href: variantLink(policy.name, least.name) }, least.name), " ", badge(verdictOf(least)));
}

/** What the axis may leave out: returns so far below the others that these could not be told apart. */
function floorOf(found, kept) {
  if (kept.length < 2 || kept.length === found.length) return null;
  const ends = kept.flatMap(({ value, low, high }) => [low ?? value, high ?? value]);
  const [bottom, top] = [Math.min(...ends), Math.max(...ends)];
  const least = Math.min(...found.map((point) => point.value));
  return bottom - least > 2 * (top - bottom || 1e-9) ? bottom - (top - bottom) / 2 : null;
}

/** A plot that follows the width of its panel, or a sentence if nothing was measured. */
function figure(title, measured, points, options, missing) {
  const holder = el("div", { class: "holder" });
  if (points.length) whenResized(holder, (width) => holder.replaceChildren(plot(points, width, { ...options, title })));
  else holder.append(el("p", { class: "quiet" }, missing));
  return el("figure", { class: "panel" }, el("figcaption", {}, el("h2", {}, title), el("p", { class: "quiet" }, measured)), holder);
}

const common = (policy, row) => ({ name: row.name, bytes: row.bytes, verdict: verdictOf(row), link: variantLink(policy.name, row.name) });

function returns(policy, rows) {
  const found = rows
    .filter((row) => row.mean_return !== null && row.bytes)
    .map((row) => ({
      ...common(policy, row),
      value: row.mean_return,
      low: row.interval?.[0],
      high: row.interval?.[1],
      text: `${row.name}: ${size(row.bytes)}, mean return ${points(row.mean_return)} (95 % interval ${between(row.interval)})${row.robust ? ", robust" : ""}`,
    }));
  const kept = found.filter((point) => point.verdict !== "lost");
  const floor = floorOf(found, kept);
  const least = Math.min(...found.map((point) => point.value));
  const highest = Math.max(...found.map((point) => point.value));
  const random = policy.random_return;
  const near = random !== null && least - random < 2 * (highest - least);
  const left = floor === null ? [] : found.filter((point) => point.value < floor).map((point) => `${point.name} (${points(point.value)})`);
  const options = {
    id: "returns",
    label: "mean return",
    format: short,
    better: (one, other) => one > other,
    floor,
    lines: near && floor === null ? [{ name: "random play", value: random }] : [],
    description: "Mean return with its 95 % interval against bytes. The table of variants below has the same numbers.",
  };
  const measured = `${episodesOf(rows)}. Lines are 95 % intervals, steps the best return up to a size.${left.length ? ` Below the axis: ${left.join(", ")}.` : ""}`;
  const missing = policy.proven_in_play === false ? NOT_PROVEN : "No variant has been evaluated yet.";
  return figure("Return against size", found.length ? measured : "", found, options, missing);
}

function latencies(policy, rows) {
  const found = rows
    .filter((row) => row.latency_p50_us !== null && row.bytes)
    .map((row) => ({
      ...common(policy, row),
      value: row.latency_p50_us,
      text: `${row.name}: ${size(row.bytes)}, p50 ${micros(row.latency_p50_us)}, p99 ${micros(row.latency_p99_us)}`,
    }));
  const options = {
    id: "latencies",
    label: "p50 latency, logarithmic",
    format: micros,
    log: true,
    better: (one, other) => one < other,
    description: "Median latency of one observation against bytes. The table of variants below has the same numbers.",
  };
  return figure("Latency against size", found.length ? `${processorsOf(rows)}.` : "", found, options, "Latency has not been measured yet.");
}

function episodesOf(rows) {
  const counts = [...new Set(rows.map((row) => row.episodes).filter(Boolean))].sort((one, other) => one - other);
  if (!counts.length) return "";
  const range = counts.length === 1 ? whole(counts[0]) : `${whole(counts[0])} to ${whole(counts.at(-1))}`;
  return `${range} held-out episodes per variant`;
}

function processorsOf(rows) {
  const found = new Set(rows.filter((row) => row.processor).map((row) => `${row.threads} ${row.threads === 1 ? "thread" : "threads"} of ${row.processor}`));
  return found.size ? `Model alone, one observation, on ${[...found].join("; ")}` : "";
}

function legend(rows) {
  const shown = new Set(rows.map(verdictOf));
  const items = MEANINGS.filter(([verdict]) => shown.has(verdict)).map(([verdict, meaning]) =>
    el("li", {}, svg("svg", { width: 18, height: 18, "aria-hidden": "true" }, shape(verdict, 9, 9)), meaning),
  );
  return el("ul", { class: "legend", "aria-label": "Marks" }, items);
}

function variants(policy, rows) {
  const columns = ["variant", "evidence", ...["bytes", "smaller", "mean return", "95 % interval", "agreement", "p50 latency"].map((name) => ({ name, number: true })), "fails under"];
  const cells = rows.map((row) => [
    [
      el("a", { href: variantLink(policy.name, row.name) }, row.name),
      row.default ? el("span", { class: "quiet" }, " (default)") : null,
      row.stale ? el("span", { class: "problem" }, " derived from an earlier network") : null,
      row.problem ? el("span", { class: "problem" }, ` ${row.problem}`) : null,
    ],
    badge(verdictOf(row)),
    whole(row.bytes),
    row.name === policy.baseline_variant ? NONE : times(row.bytes_ratio),
    points(row.mean_return),
    between(row.interval),
    percent(row.agreement, 2),
    micros(row.latency_p50_us),
    row.fails_under.join(", ") || (row.robust ? "nothing" : NONE),
  ]);
  const measured = [episodesOf(rows), processorsOf(rows)].filter(Boolean).join(". ");
  const caption = `Variants of ${policy.name}, smallest first. ${measured}`;
  return table(caption, columns.map((column) => (typeof column === "string" ? { name: column } : column)), cells);
}
