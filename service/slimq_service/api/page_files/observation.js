// Observations: a valid one to begin with, their bytes, and their newest frame for drawing.

const ARRAYS = { uint8: Uint8Array, int32: Int32Array, float32: Float32Array };
export const LARGE = 512;
/** Numbers above which an observation is not written out. */

export function sizeOf({ shape }) {
  return shape.reduce((product, length) => product * length, 1);
}

export function arrayOf({ dtype }) {
  return ARRAYS[dtype];
}

function nested(values, shape) {
  if (shape.length === 0) return values[0];
  const step = values.length / shape[0];
  return Array.from({ length: shape[0] }, (_, index) => nested(values.slice(index * step, (index + 1) * step), shape.slice(1)));
}

function nearestToZero({ low, high }) {
  return Math.min(Math.max(0, low ?? -Infinity), high ?? Infinity);
}

/** A valid observation as the service takes it in JSON: zeros, or what is nearest to them. */
export function firstObservation(spec) {
  if (!spec.parts) return [nested(Array(sizeOf(spec)).fill(nearestToZero(spec)), spec.shape)];
  const values = spec.parts.map((part) => {
    const count = part.shape.reduce((product, length) => product * length, 1);
    const first = part.start ?? Array(count).fill(nearestToZero(part));
    return [part.name, [nested([...first], part.shape)]];
  });
  return Object.fromEntries(values);
}

/** An observation of one value, or of random ones within the bounds, in bytes. */
export function filled(spec, kind) {
  const values = new ARRAYS[spec.dtype](sizeOf(spec));
  const [low, high] = [spec.low ?? -1, spec.high ?? 1];
  if (kind === "random") values.forEach((_, index) => (values[index] = low + Math.random() * (high - low)));
  else values.fill(kind === "highest" ? high : nearestToZero(spec));
  return values;
}

/** The numbers of an observation in JSON, or null if they are not those of one observation. */
export function flatten(given, spec) {
  const parts = spec.parts && !Array.isArray(given) ? spec.parts.map(({ name }) => given[name]) : [given];
  const values = parts.flat(Infinity);
  const fits = values.length === sizeOf(spec) && values.every((value) => typeof value === "number");
  return fits ? ARRAYS[spec.dtype].from(values) : null;
}

/** The newest frame of stacked ones; otherwise all values. */
export function newest(values, { shape, stack }) {
  if (!stack) return values;
  const length = shape[stack.axis] / stack.count;
  const inner = shape.slice(stack.axis + 1).reduce((product, one) => product * one, 1);
  const row = shape[stack.axis] * inner;
  return values.filter((_, index) => Math.floor((index % row) / inner) >= shape[stack.axis] - length);
}
