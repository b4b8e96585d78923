// What is shown of a game: both sides, and the steps on which the variants disagree.

import { drawn } from "./attempt.js";
import { Bars } from "./bars.js";
import { el, svg } from "./dom.js";
import { draw } from "./drawings.js";
import { plural, points, whole } from "./format.js";
import { arrayOf } from "./observation.js";

const SPEEDS = [["0.25", "¼"], ["0.5", "½"], ["1", "1"], ["2", "2"], ["4", "4"]];
const LEAST = 60;
const NOTHING = "Both would do the same.";

function decode(text, spec) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new (arrayOf(spec))(bytes.buffer);
}

/** One of the two sides. */
class Side {
  constructor(match, index) {
    const { variants, manifest } = match;
    this.index = index;
    this.match = match;
    this.steps = [];
    this.result = null;
    this.canvas = el("canvas", { class: "scene", role: "img", "aria-label": `What ${variants[index]} sees` });
    this.bars = new Bars(manifest.actions, `Q-values of ${variants[index]}`);
    this.note = el("p", { class: "note" }, " ");
    this.numbers = el("p", { class: "quiet numbers" });
    this.node = el("section", { class: "panel side", "data-variant": variants[index] }, el("h2", {}, variants[index]), this.canvas, this.note, this.bars.node, this.numbers);
  }

  add(step) {
    if (step === null) return;
    step.frame = decode(step.frame, this.match.manifest.observation);
    this.steps.push(step);
    this.bars.note(step.q_values);
  }

  show(at) {
    const step = this.steps[Math.min(at, this.steps.length - 1)];
    if (!step) return;
    const { actions, observation } = this.match.manifest;
    const other = step.other_q_values.indexOf(Math.max(...step.other_q_values));
    draw(this.canvas, { drawing: this.match.policy.drawing, observation: drawn(observation) }, step.frame, step.action);
    this.bars.show(step.q_values, step.disagrees ? { [other]: "◂ other" } : {});
    this.node.classList.toggle("differs", step.disagrees);
    const against = this.match.variants[1 - this.index];
    const over = this.result && at >= this.steps.length;
    this.note.className = step.disagrees && !over ? "note open" : "note";
    this.note.textContent = over ? this.summary() : step.disagrees ? `Disagreement: ${against} would choose ${actions[other]}.` : NOTHING;
    const upTo = this.steps.slice(0, at + 1);
    const count = upTo.filter((one) => one.disagrees).length;
    this.numbers.textContent = `Step ${whole(Math.min(at, this.steps.length - 1))}, return so far ${points(step.return)}, disagreed on ${whole(count)} of ${whole(upTo.length)} observations`;
  }

  summary() {
    const { steps, complete } = this.result;
    return `${complete ? "Ended" : "Shown until here"}: return ${points(this.result.return)} after ${plural(steps, "step")}.`;
  }
}

/** A game of two sides, played as fast as its environment's time, and searched by step. */
export class Match {
  constructor(policy, manifest, variants) {
    Object.assign(this, { policy, manifest, variants });
    this.at = 0;
    this.paused = false;
    this.whole = false;
    this.sides = [0, 1].map((index) => new Side(this, index));
    this.status = el("p", { class: "quiet", role: "status" });
    this.controls();
    this.node = el("div", {}, this.status, el("div", { class: "columns" }, this.sides.map(({ node }) => node)), this.bar);
    this.last = performance.now();
    this.frame = requestAnimationFrame((now) => this.tick(now));
  }

  controls() {
    this.pauseButton = el("button", { type: "button", id: "pause", onclick: () => this.pause(!this.paused) }, "Pause");
    this.next = el("button", { type: "button", id: "next", disabled: true, onclick: () => this.jump() }, "Next disagreement");
    this.speed = el("select", { id: "speed" }, SPEEDS.map(([value, words]) => el("option", { value, selected: value === "1" }, words)));
    this.slider = el("input", { id: "step", type: "range", min: 0, max: 0, value: 0, "aria-label": "Step", oninput: () => this.go(Number(this.slider.value)) });
    this.timeline = svg("svg", { class: "timeline", role: "img", preserveAspectRatio: "none" });
    this.bar = el(
      "section",
      { class: "panel", "aria-label": "Steps" },
      this.timeline,
      el("p", { class: "quiet" }, "Marks are steps on which the variants disagree, those of the left side above."),
      el("div", { class: "actions" }, this.pauseButton, this.next, el("label", {}, "Speed ", this.speed), this.slider),
    );
  }

  get length() {
    return Math.max(...this.sides.map(({ steps }) => steps.length));
  }

  say(text) {
    this.status.textContent = text;
  }

  fail(text) {
    this.status.className = "problem";
    this.say(text);
  }

  add(sides) {
    sides.forEach((step, index) => this.sides[index].add(step));
    this.slider.max = this.length;
    if (sides.some((step) => step?.disagrees)) this.next.disabled = false;
    if (this.length === 1) this.show();
    else if (this.length % LEAST === 0) this.drawTimeline();
  }

  ended(line) {
    this.sides[line.side].result = line;
  }

  finish() {
    this.whole = true;
    this.drawTimeline();
  }

  /** Moves on by the time that has passed, as far as steps have arrived. */
  tick(now) {
    const rate = (this.policy.drawing?.rate ?? 8) * Number(this.speed.value);
    const due = ((now - this.last) / 1000) * rate;
    if (!this.paused && due >= 1) {
      const before = this.at;
      this.at = Math.min(this.at + Math.floor(due), this.whole ? this.length : this.length - 1);
      if (this.at !== before) this.show();
    }
    if (this.paused || due >= 1) this.last = now;
    this.frame = requestAnimationFrame((later) => this.tick(later));
  }

  show() {
    this.at = Math.max(0, this.at);
    for (const side of this.sides) side.show(this.at);
    this.slider.value = this.at;
    this.drawTimeline();
  }

  drawTimeline() {
    const length = Math.max(LEAST, this.length);
    const marks = this.sides.flatMap(({ steps }, index) =>
      steps.flatMap((step, at) => (step.disagrees ? [svg("rect", { class: "tick", x: at, y: index * 11 + 1, width: Math.max(1, length / 400), height: 9 })] : [])),
    );
    const count = this.sides.map(({ steps }) => steps.filter((step) => step.disagrees).length);
    this.timeline.setAttribute("viewBox", `0 0 ${length} 22`);
    this.timeline.setAttribute("aria-label", `Disagreements: ${count[0]} on the left, ${count[1]} on the right`);
    const backs = [1, 12].map((y) => svg("rect", { class: "back", x: 0, y, width: length, height: 9 }));
    const now = this.length === 0 ? "" : svg("rect", { class: "now", x: Math.min(this.at, this.length - 1), y: 0, width: Math.max(0.5, length / 500), height: 22 });
    this.timeline.replaceChildren(...backs, ...marks, now);
  }

  pause(paused) {
    this.paused = paused;
    this.pauseButton.textContent = paused ? "Continue" : "Pause";
    if (!paused && this.whole && this.at >= this.length) this.at = 0;
  }

  go(at) {
    this.pause(true);
    this.at = at;
    this.show();
  }

  /** Goes to the next step on which the variants disagree, from the beginning after the last. */
  jump() {
    const found = [...new Set(this.sides.flatMap(({ steps }) => steps.flatMap((step, at) => (step.disagrees ? [at] : []))))];
    found.sort((one, other) => one - other);
    if (found.length) this.go(found.find((at) => at > this.at) ?? found[0]);
  }

  stop() {
    cancelAnimationFrame(this.frame);
  }
}
