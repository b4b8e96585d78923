// All policies, each with the answer to the question which variant to deploy.

import { get } from "./api.js";
import { el, facts } from "./dom.js";
import { between, percent, plural, points, size, times } from "./format.js";
import { playLink, policyLink, tryLink, variantLink } from "./links.js";
import { badge, smallest, verdictOf } from "./verdicts.js";

export async function showPolicies({ signal }) {
  const { policies, version, plays } = await get("", { signal });
  document.getElementById("version").textContent = `slimq ${version}`;
  const count = plural(policies.reduce((sum, { variants }) => sum + variants.length, 0), "variant");
  const intro = policies.length
    ? `${policies.length === 1 ? "1 policy" : `${policies.length} policies`}, ${count}: how small each gets and still plays as well as in full.`
    : "No policy is published yet.";
  const cards = policies.map((policy) => card(policy, plays));
  return { title: "", nodes: [el("h1", {}, "Policies"), el("p", { class: "lead" }, intro), el("ul", { class: "cards" }, cards)] };
}

/** Why there are no returns, for policies without an environment. */
export const NOT_PROVEN = "not proven in play: no environment, agreement on recorded states only";

export function about(policy) {
  if (policy.problem) return policy.problem;
  return policy.proven_in_play === false ? NOT_PROVEN : policy.environment;
}

function card(policy, plays) {
  const links = [el("a", { href: tryLink(policy.name) }, "Try")];
  if (plays && policy.environment) links.push(el("a", { href: playLink(policy.name) }, "Play"));
  return el(
    "li",
    { class: "panel card" },
    el("h2", {}, el("a", { href: policyLink(policy.name) }, policy.name)),
    el("p", { class: policy.problem ? "problem" : "quiet" }, about(policy)),
    answer(policy),
    el("p", { class: "links" }, links),
  );
}

function answer(policy) {
  const full = policy.variants.find(({ name }) => name === policy.baseline_variant);
  const robust = policy.variants.filter((row) => row.robust).length;
  const least = smallest(policy.variants);
  const pairs = [["Variants", `${policy.variants.length}, ${robust} robust`]];
  if (least) {
    const link = el("a", { href: variantLink(policy.name, least.name) }, least.name);
    pairs.push(["Smallest non-inferior", least.robust ? [link, " ", badge(verdictOf(least))] : link]);
    pairs.push(["Size", least === full ? `${size(least.bytes)}, the baseline` : `${size(least.bytes)}, ${times(least.bytes_ratio)} smaller than ${policy.baseline_variant}`]);
    pairs.push(["Mean return", `${points(least.mean_return)} (95 % interval ${between(least.interval)})`]);
    if (full && full !== least) pairs.push(["In full", `${points(full.mean_return)} (${between(full.interval)}), ${size(full.bytes)}`]);
  } else if (full) {
    pairs.push(["Baseline", `${full.name}, ${size(full.bytes)}`]);
    const best = closest(policy.variants, full);
    if (best) pairs.push(["Closest", `${best.name}, ${size(best.bytes)}: agrees on ${percent(best.agreement)} of states`]);
  }
  return facts(pairs);
}

function closest(rows, full) {
  const others = rows.filter((row) => row !== full && row.agreement !== null);
  return others.sort((one, other) => other.agreement - one.agreement)[0];
}
