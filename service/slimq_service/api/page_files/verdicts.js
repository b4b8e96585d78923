// What the evidence says about a variant, in words and in marks that differ in shape and colour.

import { el } from "./dom.js";

const VERDICTS = {
  robust: ["good", "◆", "robust"],
  kept: ["accent", "●", "non-inferior"],
  lost: ["bad", "○", "loses too much"],
  open: ["muted", "□", "not compared"],
};
export const MEANINGS = [
  ["robust", "robust: non-inferior undisturbed and under all standard conditions"],
  ["kept", "non-inferior in undisturbed play"],
  ["lost", "loses too much compared with the baseline"],
  ["open", "not compared with the baseline"],
];

/** The key of a verdict of a row of the overview. */
export function verdictOf(row) {
  if (row.robust) return "robust";
  if (row.non_inferior === null || row.non_inferior === undefined) return "open";
  return row.non_inferior ? "kept" : "lost";
}

/** A badge with the verdict; `words` replace its own. */
export function badge(verdict, words) {
  const [colour, mark, own] = VERDICTS[verdict];
  return el("span", { class: `badge ${colour}` }, el("span", { "aria-hidden": "true" }, `${mark} `), words ?? own);
}

/** The smallest variant that is non-inferior, or null. */
export function smallest(rows) {
  const able = rows.filter((row) => row.non_inferior && !row.problem && !row.stale);
  return able.reduce((least, row) => (least === null || row.bytes < least.bytes ? row : least), null);
}
