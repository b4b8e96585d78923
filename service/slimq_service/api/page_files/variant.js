// One variant: its files, its recipe step by step, and its evidence.

import { find, get, key, pathOf, send, urlOf } from "./api.js";
import { el, facts, panel, table } from "./dom.js";
import { between, micros, NONE, percent, points, short, size, times, whole } from "./format.js";
import { playLink, policyLink, tryLink } from "./links.js";
import { findPolicy } from "./policy.js";
import { badge, verdictOf } from "./verdicts.js";

export async function showVariant({ parts: [policy, name], signal }) {
  const path = pathOf(policy, name);
  const [overview, manifest, report, robustness] = await Promise.all([
    findPolicy(policy, signal),
    get(path, { signal }),
    find(`${path}/report`, { signal }),
    find(`${path}/robustness`, { signal }),
  ]);
  const row = overview.variants.find((one) => one.name === name) ?? { name, fails_under: [] };
  const baseline = overview.baseline_variant;
  const nodes = [
    el("p", { class: "path" }, el("a", { href: "#/" }, "Policies"), " / ", el("a", { href: policyLink(policy) }, policy), " / "),
    el("h1", {}, name),
    el("p", { class: "lead" }, manifest.recipe?.description ?? `A variant of ${policy}.`),
    verdict(row, robustness, baseline),
    el("div", { class: "actions" }, download(policy, name, manifest), el("a", { class: "button", href: tryLink(policy, baseline, name) }, "Try an observation"), overview.environment ? el("a", { class: "button", href: playLink(policy, baseline, name) }, `Play against ${name === baseline ? "another" : baseline}`) : null),
    el("div", { class: "columns" }, panel("The model", model(manifest, row, baseline)), panel("Undisturbed play", undisturbed(report, robustness, overview))),
    conditions(robustness, baseline),
    recipe(manifest),
    measured(report),
  ];
  return { title: `${policy} / ${name}`, nodes };
}

function verdict(row, robustness, baseline) {
  if (row.problem) return el("p", { class: "problem" }, row.problem);
  if (robustness?.problem) return el("p", { class: "quiet" }, `No verdict: ${robustness.problem}.`);
  if (row.name === baseline) return el("p", { class: "verdict" }, "The baseline, which other variants are compared with.");
  const reasons = row.fails_under.length ? ` Fails under: ${row.fails_under.join(", ")}.` : "";
  const missing = robustness?.missing.length ? ` Not known under ${robustness.missing.join(", ")}.` : "";
  return el("p", { class: "verdict" }, badge(verdictOf(row)), `${reasons}${missing}`);
}

/** The link to the model file; with a key, which links cannot send, the file is fetched first. */
function download(policy, name, manifest) {
  const path = `${pathOf(policy, name)}/model`;
  const words = `Download the model (${size(manifest.model.bytes)} in the repository)`;
  const link = el("a", { class: "button primary", id: "download", href: urlOf(path), download: `${policy}-${name}.onnx` }, words);
  link.addEventListener("click", async (event) => {
    if (key.get() === null || link.href.startsWith("blob:")) return;
    event.preventDefault();
    try {
      link.href = URL.createObjectURL(await (await send(path)).blob());
      link.click();
    } catch (error) {
      link.after(el("p", { class: "problem", role: "alert" }, error.message));
    }
  });
  return link;
}

function model(manifest, row, baseline) {
  const ratio = row.bytes_ratio && row.name !== baseline ? `, ${times(row.bytes_ratio)} smaller than ${baseline}` : "";
  const unpacked = manifest.model.uncompressed_bytes;
  return facts([
    ["Bytes", `${whole(manifest.model.bytes)}${ratio}`],
    ["Uncompressed", unpacked ? `${whole(unpacked)} bytes` : null],
    ["Precision", manifest.precision],
    ["Parameters", `${whole(manifest.parameters)}, ${whole(manifest.nonzero_parameters)} of them non-zero`],
    ["MACs", `${whole(manifest.macs)} per observation`],
    ["ONNX opset", manifest.opset],
    ["SHA-256", el("code", {}, manifest.model.sha256)],
    ["Made with", Object.entries(manifest.versions ?? {}).map(([tool, version]) => `${tool} ${version}`).join(", ") || null],
  ]);
}

function undisturbed(report, robustness, overview) {
  if (report === null) return el("p", { class: "quiet" }, "It has not been evaluated yet.");
  const { protocol, fidelity, interval } = report;
  const difference = robustness?.undisturbed;
  const pairs = [];
  if (report.mean !== null) {
    pairs.push(["Mean return", `${points(report.mean)} (${percent(protocol.confidence, 0)} interval ${points(interval.low)} to ${points(interval.high)})`]);
    pairs.push(["Interquartile mean", `${points(report.iqm)} (${points(report.iqm_interval.low)} to ${points(report.iqm_interval.high)})`]);
    pairs.push(["Random play", overview.random_return === null ? null : points(overview.random_return)]);
    pairs.push(["Episodes", `${whole(report.returns.length)}, ${whole(report.distinct_trajectories)} of them distinct`]);
    pairs.push(["Protocol", `ε-greedy with ε = ${protocol.epsilon}, ${protocol.seed_range} seeds from ${whole(protocol.first_seed)}, ${whole(protocol.resamples)} resamples`]);
  }
  if (difference) pairs.push(["Against the baseline", `${shares(difference)}; margin ${percent(-difference.margin)}`]);
  if (fidelity) pairs.push(["Same action", `${percent(fidelity.agreement, 2)} of ${whole(fidelity.states)} states`], ["Q-value error", `${short(fidelity.q_error_mean)} mean, ${short(fidelity.q_error_max)} at most`]);
  return facts(pairs);
}

/** A difference of returns, as a share of full minus random play. */
function shares({ mean, low, high }) {
  const signed = (value) => `${value > 0 ? "+" : ""}${percent(value)}`;
  return `${signed(mean)} (${signed(low)} to ${signed(high)})`;
}

function conditions(robustness, baseline) {
  if (!robustness?.conditions?.length) return null;
  const columns = ["condition", "what happens", ...["mean return", "95 % interval", baseline, "difference", "episodes"].map((name) => ({ name, number: true })), "verdict"];
  const rows = robustness.conditions.map((one) => [
    `${one.label}${one.standard ? "" : " (not standard)"}`,
    one.effect,
    points(one.mean),
    between(one.interval),
    points(one.full_mean),
    one.difference ? shares(one.difference) : NONE,
    whole(one.episodes),
    one.non_inferior === null ? badge("open", one.note ?? "undecided") : badge(one.non_inferior ? "kept" : "lost"),
  ]);
  const caption = "Differences are paired by episode, as shares of full minus random play; their bounds hold for all conditions together.";
  return panel("Under conditions", table(caption, columns.map((one) => (typeof one === "string" ? { name: one } : one)), rows));
}

function recipe(manifest) {
  const steps = manifest.recipe?.steps ?? [];
  if (!steps.length) return null;
  const most = Math.max(1, ...steps.map((step) => step.bytes ?? 0));
  const columns = ["step", ...["bytes", "parameters", "non-zero", "MACs", "same action", "time"].map((name) => ({ name, number: true })), { name: "size" }, { name: "settings" }];
  const rows = steps.map((step, index) => [
    `${index + 1}. ${step.name}`,
    change(step.bytes, steps[index - 1]?.bytes),
    whole(step.parameters_count),
    whole(step.nonzero_parameters),
    whole(step.macs),
    step.fidelity ? percent(step.fidelity.agreement) : NONE,
    step.hardware ? el("span", { title: step.hardware }, seconds(step.seconds)) : seconds(step.seconds),
    step.bytes === null ? NONE : sizeBar(step.bytes / most),
    settings(step.parameters),
  ]);
  const trained = [...new Set(steps.map((step) => step.hardware).filter(Boolean))].join("; ");
  const caption = `Recipe ${manifest.recipe.name}, seed ${manifest.recipe.seed}: what each step left. Bytes are of the file if it were exported then; actions are compared on the calibration set${trained ? `; steps that train ran on ${trained}` : ""}.`;
  return panel("Recipe", table(caption, columns.map((one) => (typeof one === "string" ? { name: one } : one)), rows));
}

function change(bytes, before) {
  if (bytes === null || bytes === undefined) return NONE;
  if (!before || before === bytes) return whole(bytes);
  const share = bytes / before - 1;
  return [whole(bytes), el("span", { class: "quiet" }, ` (${share > 0 ? "+" : ""}${percent(share)})`)];
}

function sizeBar(share) {
  const bar = el("span", {});
  bar.style.width = `${100 * share}%`;
  return el("span", { class: "change", "aria-hidden": "true" }, bar);
}

function settings(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== false && !(Array.isArray(value) && !value.length));
  if (!given.length) return NONE;
  const lines = given.map(([name, value]) => [name, typeof value === "object" ? JSON.stringify(value) : String(value)]);
  return el("details", {}, el("summary", {}, `${given.length}`), facts(lines));
}

function seconds(value) {
  if (value < 0.01) return "< 10 ms";
  return value < 90 ? `${short(Number(value.toPrecision(2)))} s` : `${whole(value / 60)} min`;
}

function measured(report) {
  const latency = report?.latency;
  if (!latency) return null;
  const columns = [{ name: "batch" }, { name: "mode" }, ...["p50", "p95", "p99", "per observation"].map((name) => ({ name, number: true }))];
  const rows = latency.measurements.map((one) => [whole(one.batch), one.mode, micros(one.p50_us), micros(one.p95_us), micros(one.p99_us), micros(one.p50_us / one.batch)]);
  const caption = `The model alone, without HTTP: ${latency.threads === 1 ? "1 thread" : `${latency.threads} threads`} of ${latency.processor}, ONNX Runtime ${latency.onnxruntime}, ${latency.processes} processes. Interleaved: variants take turns; alone: one after the other.`;
  return panel("Latency", table(caption, columns, rows));
}
