// Q-values as bars, between the smallest and the largest value that was shown.

import { el } from "./dom.js";

/** A list of bars, one for each action. */
export class Bars {
  constructor(actions, label) {
    this.rows = actions.map((name) => {
      const bar = el("div", { class: "bar" });
      const value = el("span", { class: "value" });
      const row = el("li", {}, el("span", { class: "name", title: name }, name), el("div", { class: "track" }, bar), value);
      return { row, bar, value, name };
    });
    this.node = el("ol", { class: "bars", "aria-label": label }, this.rows.map(({ row }) => row));
    this.low = Infinity;
    this.high = -Infinity;
  }

  /** Widens the range to these values, so that bars of several variants are comparable. */
  note(values) {
    this.low = Math.min(this.low, ...values);
    this.high = Math.max(this.high, ...values);
  }

  /** Shows values; `marks` are words for some actions, by their index. */
  show(values, marks = {}) {
    this.note(values);
    const range = this.high - this.low || 1;
    const best = values.indexOf(Math.max(...values));
    this.rows.forEach(({ row, bar, value }, action) => {
      bar.style.width = `${4 + (96 * (values[action] - this.low)) / range}%`;
      const mark = marks[action] ? ` ${marks[action]}` : "";
      value.textContent = `${values[action].toPrecision(5)}${mark}`;
      row.className = action === best ? "chosen" : "";
    });
  }
}
