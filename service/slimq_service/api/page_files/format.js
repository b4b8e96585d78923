// Numbers with their units.

export const NONE = "–";

/** Minus signs instead of hyphens. */
function signed(text) {
  return text.replace(/^-/, "−");
}

export function whole(value) {
  return value === null || value === undefined ? NONE : signed(Math.round(value).toLocaleString("en"));
}

/** Four significant digits at most, and never an exponent. */
export function short(value) {
  if (value === null || value === undefined) return NONE;
  return signed(Number(value.toPrecision(4)).toLocaleString("en", { maximumFractionDigits: 6 }));
}

/** A return, with two decimals unless it is whole. */
export function points(value) {
  if (value === null || value === undefined) return NONE;
  const digits = Number.isInteger(value) ? 0 : 2;
  return signed(value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
}

/** The size of a file: 312 B, 23.8 kB, 1.2 MB. */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return NONE;
  if (bytes < 1000) return `${bytes} B`;
  return bytes < 1e6 ? `${short3(bytes / 1e3)} kB` : `${short3(bytes / 1e6)} MB`;
}

function short3(value) {
  return Number(value.toPrecision(3)).toLocaleString("en");
}

/** A time of this many microseconds. */
export function micros(value) {
  if (value === null || value === undefined) return NONE;
  if (value < 1000) return `${short3(value)} µs`;
  return value < 1e6 ? `${short3(value / 1e3)} ms` : `${short3(value / 1e6)} s`;
}

export function percent(share, digits = 1) {
  if (share === null || share === undefined) return NONE;
  return `${signed((100 * share).toLocaleString("en", { maximumFractionDigits: digits }))} %`;
}

export function times(ratio) {
  return ratio === null || ratio === undefined ? NONE : `${short3(ratio)}×`;
}

export function between(interval) {
  return interval ? `${points(interval[0])} to ${points(interval[1])}` : NONE;
}

export function plural(count, noun) {
  return `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;
}
