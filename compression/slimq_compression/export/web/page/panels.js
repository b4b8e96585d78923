// The panels next to the play: Q-values as bars, numbers, evidence, files.

import { greedy } from "./policy.js";

const byId = (id) => document.getElementById(id);
export const whole = (value) => value.toLocaleString("en");
export const short = (value) => String(Number(value.toPrecision(4)));

function make(tag, text = "", className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

function setFacts(list, facts) {
  list.replaceChildren(...facts.flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
}

/** One bar for each action, between the smallest and the largest value of the episode. */
export class Bars {
  constructor(actions) {
    this.rows = actions.map((name) => {
      const row = make("li");
      const [label, track] = [make("span", name, "name"), make("div", "", "track")];
      const [bar, value] = [make("div", "", "bar"), make("span", "", "value")];
      label.title = name;
      track.append(bar);
      row.append(label, track, value);
      return { row, bar, value };
    });
    byId("bars").replaceChildren(...this.rows.map(({ row }) => row));
    this.reset();
  }

  reset() {
    this.low = Infinity;
    this.high = -Infinity;
  }

  note(values) {
    this.low = Math.min(this.low, ...values);
    this.high = Math.max(this.high, ...values);
  }

  show(values) {
    const range = this.high - this.low || 1;
    const best = greedy(values);
    this.rows.forEach(({ row, bar, value }, action) => {
      bar.style.width = `${(100 * (values[action] - this.low)) / range}%`;
      value.textContent = values[action].toPrecision(5);
      row.className = action === best ? "chosen" : "";
    });
  }
}

export function showNumbers(facts) {
  setFacts(byId("numbers"), facts);
}

export function showHeading(report) {
  const name = `${report.policy} · ${report.variant}`;
  document.title = `${name} – slimq`;
  byId("title").textContent = name;
  const where = report.environment ?? "recorded states";
  byId("subtitle").textContent =
    `A DQN policy for ${where}, computed in this browser; nothing is sent anywhere.`;
}

function verdictOf({ mean, text, robust, non_inferior: kept, conditions, missing, baseline }, variant) {
  if (mean === null) return ["bad", text];
  if (variant === baseline) return ["open", "The full policy, which its variants are compared with."];
  if (robust) return ["good", "Robust: non-inferior to the full policy, undisturbed and under every standard condition."];
  const lost = conditions.filter(({ verdict }) => verdict === "loses").map(({ label }) => label);
  if (kept === false) lost.unshift("undisturbed play");
  if (lost.length) return ["bad", `Not robust: loses too much compared with the full policy (${lost.join(", ")}).`];
  if (kept === null) return ["open", "Played, but not compared with the full policy."];
  const unknown = missing.length ? ` Not known under ${missing.join(", ")}.` : "";
  return ["open", `Non-inferior to the full policy in undisturbed play.${unknown}`];
}

const VERDICTS = { holds: ["good", "passes"], loses: ["bad", "loses too much"], open: ["open", "decides nothing"] };

function showConditions(conditions) {
  const table = byId("conditions");
  table.hidden = conditions.length === 0;
  const head = make("tr");
  head.append(...["Condition", "Return", "Full policy", "Verdict"].map((name) => make("th", name)));
  const rows = conditions.map((under) => {
    const row = make("tr");
    const [style, words] = VERDICTS[under.verdict];
    const name = make("td", under.label);
    name.title = under.effect;
    row.append(
      name,
      make("td", `${short(under.mean)} (${short(under.low)} to ${short(under.high)})`),
      make("td", under.full_mean === null ? "–" : short(under.full_mean)),
      make("td", words, style),
    );
    return row;
  });
  table.replaceChildren(head, ...rows);
}

export function showEvidence({ evidence, variant }) {
  const [style, words] = verdictOf(evidence, variant);
  byId("verdict").textContent = words;
  byId("verdict").className = `verdict ${style}`;
  const facts = [];
  if (evidence.mean !== null) {
    const interval = `95 % interval ${short(evidence.low)} to ${short(evidence.high)}`;
    facts.push(["Mean return", `${short(evidence.mean)} (${interval}), ${evidence.episodes} held-out episodes`]);
    if (evidence.full_mean !== null) facts.push(["Full policy", short(evidence.full_mean)]);
    if (evidence.random_mean !== null) facts.push(["Random play", short(evidence.random_mean)]);
  }
  setFacts(byId("evidence"), facts);
  showConditions(evidence.conditions);
  byId("notes").replaceChildren(...evidence.notes.map((note) => make("li", note)));
}

function episodeFact({ steps, complete, bytes, seed }) {
  if (seed === null) return `${whole(steps)} recorded states, ${whole(bytes)} bytes`;
  const part = complete ? "all" : "the first";
  return `${part} ${whole(steps)} steps of held-out seed ${seed}, ${whole(bytes)} bytes`;
}

export function showFiles(report) {
  const { model, runtime, episode, observation } = report;
  const stored =
    model.variant_bytes === model.bytes ? "" : `; ${whole(model.variant_bytes)} in the repository`;
  const facts = [
    ["Model", `${whole(model.bytes)} bytes${stored}`],
    ["SHA-256", model.sha256],
    ["Runtime", `${runtime.package} ${runtime.version}, ${whole(runtime.bytes)} bytes`],
    ["Observation", `${observation.dtype} ${observation.shape.join(" × ")}`],
    ["Environment", report.page_environment ? "played in this page" : "replayed from a recording"],
    ["Recording", episodeFact(episode)],
    ["Exported by", `slimq ${report.slimq}`],
  ];
  if (model.decoded.length) facts.splice(2, 0, ["Decoded", model.decoded.join(", ")]);
  setFacts(byId("files"), facts);
}
