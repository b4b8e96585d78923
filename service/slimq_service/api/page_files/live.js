// Requests per second and latency of every variant, second by second, from the service's metrics.

import { send, ServiceError } from "./api.js";
import { el, svg, table } from "./dom.js";
import { micros, NONE, short, whole } from "./format.js";
import { policyLink, variantLink } from "./links.js";
import { quantile, readTotals } from "./metrics.js";

const KEPT = 60;
const EVERY_MS = 1000;
const SPARK = { width: 160, height: 32 };

/** What was counted between two totals of a variant, `seconds` apart. */
export function sampleOf(before, after, seconds) {
  const buckets = before?.buckets ?? [];
  return {
    rate: Math.max(0, after.requests - (before?.requests ?? 0)) / seconds,
    errors: Math.max(0, after.errors - (before?.errors ?? 0)) / seconds,
    p50: quantile(0.5, buckets, after.buckets),
    p99: quantile(0.99, buckets, after.buckets),
  };
}

function spark(rows, label) {
  const most = Math.max(1e-12, ...rows.flat().filter((value) => value !== null));
  const lines = rows.map((values, index) => {
    const points = values.map((value, place) => {
      const x = ((KEPT - values.length + place) / (KEPT - 1)) * SPARK.width;
      return value === null ? null : `${x} ${SPARK.height - 2 - (value / most) * (SPARK.height - 4)}`;
    });
    const path = points.map((point, place) => (point === null ? "" : `${place && points[place - 1] !== null ? "L" : "M"}${point}`));
    return svg("path", { class: index ? "second" : null, d: path.join("") || "M0 0" });
  });
  const box = { viewBox: `0 0 ${SPARK.width} ${SPARK.height}`, preserveAspectRatio: "none" };
  return svg("svg", { class: "spark", role: "img", "aria-label": label, ...box }, lines);
}

function row({ policy, variant, samples }) {
  const last = samples.at(-1);
  const of = (name) => samples.map((sample) => sample[name]);
  const latest = (name) => of(name).findLast((value) => value !== null) ?? null;
  const time = (name) => (latest(name) === null ? NONE : micros(latest(name) * 1e6));
  return [
    [el("a", { href: policyLink(policy) }, policy), " / ", el("a", { href: variantLink(policy, variant) }, variant)],
    last.rate < 10 ? short(Number(last.rate.toPrecision(2))) : whole(last.rate),
    spark([of("rate")], `Requests per second of ${policy} ${variant}`),
    time("p50"),
    time("p99"),
    spark([of("p50"), of("p99")], `p50 and p99 latency of ${policy} ${variant}`),
    last.errors ? short(Number(last.errors.toPrecision(2))) : "0",
  ];
}

const COLUMNS = [
  { name: "variant" },
  { name: "requests/s", number: true },
  { name: "last 60 s" },
  { name: "p50", number: true },
  { name: "p99", number: true },
  { name: "p50, p99, last 60 s" },
  { name: "errors/s", number: true },
];
const CAPTION =
  "Differences of /metrics once a second, over all workers. Latency is from a request's headers to its response, estimated from buckets a factor of 2 apart; p50 is the first line, p99 the second.";

/** Reads the metrics every second while the view is open and visible. */
class Watch {
  constructor(holder, signal) {
    this.holder = holder;
    this.signal = signal;
    this.series = new Map();
    this.before = null;
  }

  async run() {
    while (!this.signal.aborted) {
      await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
      if (!document.hidden) {
        try {
          await this.read();
        } catch (error) {
          if (this.signal.aborted) return;
          this.fail(error);
        }
      }
    }
  }

  fail(error) {
    this.holder.replaceChildren(el("p", { class: "problem", role: "alert" }, explain(error)));
    this.before = null;
  }

  async read() {
    const text = await (await send("metrics", { signal: this.signal })).text();
    const now = { at: performance.now(), totals: readTotals(text) };
    if (this.before !== null) this.add(now);
    this.before = now;
    this.show();
  }

  add(now) {
    const seconds = (now.at - this.before.at) / 1000;
    for (const [id, total] of now.totals) {
      const sample = sampleOf(this.before.totals.get(id), total, seconds);
      const known = this.series.get(id);
      if (!known && !sample.rate && !sample.errors) continue;
      const one = known ?? { policy: total.policy, variant: total.variant, samples: [] };
      one.samples = [...one.samples, sample].slice(-KEPT);
      if (one.samples.some(({ rate, errors }) => rate || errors)) this.series.set(id, one);
      else this.series.delete(id);
    }
  }

  show() {
    const rows = [...this.series.values()].sort((one, other) => other.samples.at(-1).rate - one.samples.at(-1).rate);
    if (!rows.length) {
      this.holder.replaceChildren(
        el("p", {}, "No requests for actions in the last minute. A load test, for example:"),
        el("pre", {}, `slimq loadtest cartpole --url ${location.origin}`),
      );
      return;
    }
    const scrolled = this.holder.querySelector(".wide")?.scrollLeft ?? 0;
    this.holder.replaceChildren(table(CAPTION, COLUMNS, rows.map(row)));
    this.holder.querySelector(".wide").scrollLeft = scrolled;
  }
}

function explain(error) {
  const elsewhere = error instanceof ServiceError && error.status === 404;
  return elsewhere ? "This port does not serve /metrics: open the page's Live view through the admin port's metrics, or without SLIMQ_ADMIN_PORT." : error.message;
}

export async function showLive({ signal }) {
  const holder = el("div", { id: "live" }, el("p", { class: "quiet" }, "Reading the metrics …"));
  const watch = new Watch(holder, signal);
  try {
    await watch.read();
  } catch (error) {
    if (error instanceof ServiceError && error.status === 401) throw error;
    if (!signal.aborted) watch.fail(error);
  }
  watch.run();
  const lead = "Requests per second and latency by variant, while something sends requests.";
  return { title: "Live", nodes: [el("h1", {}, "Live"), el("p", { class: "lead" }, lead), el("section", { class: "panel" }, holder)] };
}
