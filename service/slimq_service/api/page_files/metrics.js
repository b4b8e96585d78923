// The service's metrics, in Prometheus' text format, as totals by variant.

const REQUESTS = "slimq_requests_total";
const ERRORS = "slimq_errors_total";
const SECONDS = "slimq_http_request_seconds_bucket";
const NAMES = [REQUESTS, ERRORS, SECONDS];

function labelsOf(text) {
  const found = {};
  for (const [, name, value] of text.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
    found[name] = value.replace(/\\(.)/g, (_, character) => (character === "n" ? "\n" : character));
  }
  return found;
}

/** Totals by `policy/variant`: `{requests, errors, buckets}`, buckets as `[bound, count so far]`. */
export function readTotals(text) {
  const totals = new Map();
  for (const line of text.split("\n")) {
    const end = line.indexOf("{");
    const name = line.slice(0, end);
    if (!NAMES.includes(name)) continue;
    const close = line.lastIndexOf("}");
    const { policy, variant, le } = labelsOf(line.slice(end + 1, close));
    const value = Number(line.slice(close + 2));
    const id = `${policy}/${variant}`;
    if (!totals.has(id)) totals.set(id, { policy, variant, requests: 0, errors: 0, buckets: [] });
    const total = totals.get(id);
    if (name === REQUESTS) total.requests += value;
    else if (name === ERRORS) total.errors += value;
    else total.buckets.push([le === "+Inf" ? Infinity : Number(le), value]);
  }
  return totals;
}

/** A quantile of the times between two totals, in seconds, linear within a bucket; null if none. */
export function quantile(share, before, after) {
  const counts = after.map(([bound, count], index) => [bound, count - (before[index]?.[1] ?? 0)]);
  const all = counts.at(-1)?.[1] ?? 0;
  if (all <= 0) return null;
  const rank = share * all;
  let [low, below] = [0, 0];
  for (const [bound, count] of counts) {
    if (count >= rank) {
      if (bound === Infinity) return low;
      return low + ((bound - low) * (rank - below)) / (count - below || 1);
    }
    [low, below] = [bound, count];
  }
  return low;
}
