// A form that sends an observation to several variants, and shows their actions and Q-values.

import { get, pathOf, post, ServiceError } from "./api.js";
import { announce, el, panel } from "./dom.js";
import { draw } from "./drawings.js";
import { Bars } from "./bars.js";
import { micros, percent, short, whole } from "./format.js";
import { policyLink, variantLink } from "./links.js";
import { filled, firstObservation, flatten, LARGE, newest, sizeOf } from "./observation.js";
import { findPolicy } from "./policy.js";
import { smallest } from "./verdicts.js";

const FILLS = [["zeros", "zeros, or the nearest value within the bounds"], ["highest", "the highest value"], ["random", "random values within the bounds"]];

export async function showAttempt({ parts: [name], parameters, signal }) {
  const [policy, manifest] = await Promise.all([findPolicy(name, signal), get(pathOf(name), { signal })]);
  const result = el("div", { id: "result", "aria-live": "polite" });
  const large = sizeOf(manifest.observation) > LARGE;
  const entry = large ? fillEntry(manifest) : textEntry(manifest);
  const choice = chooseVariants(policy, (parameters.get("variants") ?? "").split(",").filter(Boolean));
  const form = el(
    "form",
    { id: "attempt", onsubmit: (event) => (event.preventDefault(), attempt({ policy, manifest, entry, choice, result })) },
    entry.node,
    choice.node,
    el("div", { class: "actions" }, el("button", { type: "submit", class: "primary" }, "Send"), entry.reset ? el("button", { type: "button", onclick: entry.reset }, "Reset") : null),
  );
  const nodes = [
    el("p", { class: "path" }, el("a", { href: "#/" }, "Policies"), " / ", el("a", { href: policyLink(name) }, name), " / "),
    el("h1", {}, "Try an observation"),
    el("p", { class: "lead" }, layout(manifest.observation)),
    el("div", { class: "columns" }, panel("Request", form), panel("Answer", result)),
  ];
  result.append(el("p", { class: "quiet" }, "Actions and Q-values appear here."));
  return { title: `Try ${name}`, nodes };
}

function layout(spec) {
  const bounds = spec.low === null && spec.high === null ? "unbounded" : `from ${spec.low ?? "−∞"} to ${spec.high ?? "∞"}`;
  const parts = spec.parts ? `; parts ${spec.parts.map(({ name }) => name).join(", ")}` : "";
  const stacked = spec.stack ? `; ${spec.stack.count} frames, the newest last` : "";
  return `${spec.dtype} ${spec.shape.join(" × ")}, ${bounds}${parts}${stacked}`;
}

function textEntry(manifest) {
  const first = () => JSON.stringify(firstObservation(manifest.observation));
  const area = el("textarea", { id: "observation", spellcheck: "false", rows: "6" });
  area.value = first();
  const node = el("div", { class: "field" }, el("label", { for: "observation" }, "Observations, as JSON with one row each"), area);
  const read = () => ({ body: `{"observations": ${area.value}}`, type: "application/json", values: valuesOf(area.value, manifest) });
  return { node, read, reset: () => (area.value = first()) };
}

function valuesOf(text, manifest) {
  try {
    return flatten(JSON.parse(text), manifest.observation);
  } catch {
    return null;
  }
}

function fillEntry(manifest) {
  const select = el("select", { id: "fill" }, FILLS.map(([value, words]) => el("option", { value }, words)));
  const file = el("input", { id: "file", type: "file", accept: ".npy,.bin,.raw" });
  const node = el(
    "div",
    {},
    el("div", { class: "field" }, el("label", { for: "fill" }, `${whole(sizeOf(manifest.observation))} numbers: fill with`), select),
    el("div", { class: "field" }, el("label", { for: "file" }, "or send a file: .npy, or raw little-endian values"), file),
  );
  const read = () => {
    const [own] = file.files;
    if (own) return { body: own, type: own.name.endsWith(".npy") ? "application/x-npy" : "application/octet-stream", values: null };
    const values = filled(manifest.observation, select.value);
    return { body: values, type: "application/octet-stream", values };
  };
  return { node, read, reset: () => ((file.value = ""), (select.value = "zeros")) };
}

function chooseVariants(policy, wanted) {
  const usual = [policy.baseline_variant, smallest(policy.variants)?.name].filter(Boolean);
  const first = wanted.length ? wanted : usual;
  const boxes = policy.variants.map((row) => {
    const box = el("input", { type: "checkbox", name: "variant", value: row.name });
    box.checked = first.includes(row.name);
    return box;
  });
  const node = el("fieldset", {}, el("legend", {}, "Variants"), el("div", { class: "choices" }, boxes.map((box) => el("label", {}, box, box.value))));
  return { node, read: () => boxes.filter((box) => box.checked).map((box) => box.value) };
}

async function attempt({ policy, manifest, entry, choice, result }) {
  const { body, type, values } = entry.read();
  const names = choice.read();
  if (!names.length) return fail(result, "Choose a variant at least.");
  const query = new URLSearchParams({ variants: names.join(","), reference: names.includes(policy.baseline_variant) ? policy.baseline_variant : names[0] });
  try {
    const answer = await post(`${pathOf(policy.name)}/compare?${query}`, body, type);
    show(answer, { policy, manifest, values, result });
  } catch (error) {
    fail(result, error.message, error instanceof ServiceError ? error.problem : {});
  }
}

/** Shows an error as the service says it, with its data. */
function fail(result, message, { code, field, limit, received, available } = {}) {
  const data = { code, field, limit, received, available: available?.join(", ") };
  const pairs = Object.entries(data).filter(([, value]) => value !== undefined);
  const rows = pairs.map(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]);
  result.replaceChildren(el("p", { class: "problem", id: "error" }, message), el("dl", { class: "facts" }, rows));
}

function show(answer, { policy, manifest, values, result }) {
  const actions = manifest.actions;
  const all = answer.variants.flatMap((one) => one.q_values[0]);
  const start = manifest.action_start ?? 0;
  const expected = answer.variants[0].actions[0];
  const sections = answer.variants.map((one) => {
    const bars = new Bars(actions, `Q-values of ${one.variant}`);
    bars.note(all);
    bars.show(one.q_values[0]);
    const action = actions[one.actions[0] - start] ?? one.actions[0];
    const differs = one.actions[0] !== expected;
    const agreement = one.variant === answer.reference ? "the reference" : `agrees on ${percent(one.agreement)} of ${whole(one.actions.length)}, largest difference ${short(one.max_q_difference)}`;
    return el(
      "section",
      { "data-variant": one.variant },
      el("h3", {}, el("a", { href: variantLink(policy.name, one.variant) }, one.variant), `: ${action}`, differs ? el("span", { class: "badge open" }, " differs") : null),
      bars.node,
      el("p", { class: "quiet" }, `${agreement}; ${micros(one.seconds.inference * 1e6)} in the model`),
    );
  });
  const failed = Object.entries(answer.failed).map(([name, problem]) => el("p", { class: "problem" }, `${name}: ${problem.detail}`));
  result.replaceChildren(...picture(policy, manifest, values, answer), ...sections, ...failed);
  announce(`${answer.variants.length} variants answered`);
}

function picture(policy, manifest, values, answer) {
  if (!values || !policy.drawing || policy.drawing.kind === "values") return [];
  const canvas = el("canvas", { class: "scene", role: "img", "aria-label": "The observation" });
  draw(canvas, { drawing: policy.drawing, observation: drawn(manifest.observation) }, newest(values, manifest.observation), answer.variants[0].actions[0]);
  return [canvas];
}

/** The layout of an observation as the drawings take it. */
export function drawn({ shape, stack }) {
  return { shape, axis: stack ? stack.axis : null };
}
