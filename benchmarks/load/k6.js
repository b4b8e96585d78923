// The job of `slimq loadtest` for people who have k6: variants one after another, the same
// observations, closed loop (MODE=closed), open loop (MODE=open) or steps (MODE=steps), each of which
// asks for half as much again as the one before.
//
//   python benchmarks/load/observations.py pong pong.bin
//   k6 run --no-usage-report -e OBSERVATIONS=$PWD/pong.bin benchmarks/load/k6.js
//
// k6 counts latency from when a request was sent. An arrival that finds no free user is not sent
// late, it is dropped: look at that column before the others. Latencies are of answers with status
// 200, since a refusal is fast.

import http from 'k6/http';
import exec from 'k6/execution';

const url = (__ENV.URL || 'http://127.0.0.1:8000').replace(/\/+$/, '');
const policy = __ENV.POLICY || 'pong';
const variants = (__ENV.VARIANTS || 'fp32,int8,tiny').split(',');
const mode = __ENV.MODE || 'open';
const rate = Number(__ENV.RATE || 200);
const steps = Number(__ENV.STEPS || 6);
const seconds = Number(__ENV.SECONDS || 10);
const connections = Number(__ENV.CONNECTIONS || 4);
const users = Number(__ENV.MOST_CONNECTIONS || 64);
const observations = open(__ENV.OBSERVATIONS || 'observations.bin', 'b');

const headers = { 'content-type': 'application/octet-stream' };
if (__ENV.SLIMQ_API_KEY) {
  headers.authorization = `Bearer ${__ENV.SLIMQ_API_KEY}`;
}

const arrivals = (due) => ({
  executor: 'constant-arrival-rate',
  rate: due,
  duration: `${seconds}s`,
  preAllocatedVUs: users,
  maxVUs: users,
});
const modes = {
  closed: () => [{ executor: 'constant-vus', vus: connections, duration: `${seconds}s` }],
  open: () => [arrivals(rate)],
  steps: () => Array.from({ length: steps }, (_, index) => arrivals(Math.round(rate * 1.5 ** index))),
};
if (!modes[mode]) {
  throw new Error(`MODE: expected ${Object.keys(modes).join(', ')}, received ${mode}`);
}

const scenarios = {};
const thresholds = {};
const grace = 5;
const runs = variants.flatMap((variant) =>
  modes[mode]().map((executor, step) => ({ variant, step, executor, name: `${variant}-${step}` })),
);
runs.forEach(({ variant, executor, name }, index) => {
  scenarios[name] = {
    ...executor,
    exec: 'act',
    env: { VARIANT: variant },
    // The next one begins when the last answers of this one are in, or given up.
    startTime: `${index * (seconds + grace + 1)}s`,
    gracefulStop: `${grace}s`,
  };
  // Only metrics with a threshold are kept for each scenario; these always hold.
  thresholds[`http_req_duration{scenario:${name},expected_response:true}`] = ['max>=0'];
  thresholds[`http_req_failed{scenario:${name}}`] = ['rate>=0'];
  thresholds[`dropped_iterations{scenario:${name}}`] = ['count>=0'];
});

export const options = {
  scenarios,
  thresholds,
  summaryTrendStats: ['med', 'p(90)', 'p(99)', 'p(99.9)', 'max', 'count'],
  discardResponseBodies: true,
};

export function setup() {
  const answer = http.get(`${url}/v1/policies/${policy}`, { headers, responseType: 'text' });
  if (answer.status !== 200) {
    exec.test.abort(`${url}: ${policy}: ${answer.status} ${answer.body || answer.error}`);
  }
  const { dtype, shape } = answer.json().observation;
  const size = shape.reduce((product, length) => product * length, dtype === 'uint8' ? 1 : 4);
  if (observations.byteLength % size) {
    exec.test.abort(`OBSERVATIONS: expected a multiple of ${size} bytes for ${policy}`);
  }
  for (const variant of variants) {
    const warm = send(variant, size, 0);
    if (warm.status !== 200) {
      exec.test.abort(`${variant}: ${warm.status} ${warm.error}`);
    }
  }
  return { size };
}

export function act({ size }) {
  send(__ENV.VARIANT, size, exec.scenario.iterationInTest);
}

function send(variant, size, index) {
  const start = (index % (observations.byteLength / size)) * size;
  const path = `/v1/policies/${policy}/variants/${variant}/act`;
  return http.post(`${url}${path}`, observations.slice(start, start + size), { headers });
}

export function handleSummary(data) {
  const found = (metric) => (data.metrics[metric] || {}).values || {};
  const latencyOf = (name) => found(`http_req_duration{scenario:${name},expected_response:true}`);
  const rows = runs.map(({ variant, step, executor, name }) => {
    const latency = latencyOf(name);
    const base = latencyOf(`${variants[0]}-${step}`).med;
    const times = [latency.med, latency['p(90)'], latency['p(99)'], latency['p(99.9)'], latency.max];
    return [
      variant,
      executor.rate ? executor.rate.toString() : '–',
      ((latency.count || 0) / seconds).toFixed(1),
      ...times.map((value) => (latency.count ? value.toFixed(2) : '–')),
      (found(`http_req_failed{scenario:${name}}`).passes || 0).toString(),
      (found(`dropped_iterations{scenario:${name}}`).count || 0).toString(),
      latency.count && base ? (latency.med / base).toFixed(3) : '–',
    ];
  });
  const head = ['variant', 'due/s', 'requests/s', 'p50 ms', 'p90 ms', 'p99 ms', 'p99.9 ms', 'max ms'];
  head.push('failed', 'dropped', `p50 / ${variants[0]}`);
  const lines = [head, ...rows].map((row) => row.map((cell) => cell.padStart(12)).join(' '));
  const files = { stdout: `${lines.join('\n')}\n` };
  if (__ENV.OUTPUT) {
    files[__ENV.OUTPUT] = JSON.stringify({ mode, head, rows }, null, 2);
  }
  return files;
}
