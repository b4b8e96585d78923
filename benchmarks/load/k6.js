// The job of `slimq loadtest` for people who have k6: variants one after another, the same
// observations, closed loop (MODE=closed), open loop (MODE=open) or steps (MODE=steps).
//
//   python benchmarks/load/observations.py pong pong.bin
//   k6 run --no-usage-report -e OBSERVATIONS=$PWD/pong.bin benchmarks/load/k6.js
//
// k6 counts latency from when a request was sent. An arrival that finds no free user is not sent
// late, it is dropped: look at that column before the others.

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

const executors = {
  closed: { executor: 'constant-vus', vus: connections, duration: `${seconds}s` },
  open: {
    executor: 'constant-arrival-rate',
    rate: rate,
    duration: `${seconds}s`,
    preAllocatedVUs: users,
    maxVUs: users,
  },
  steps: {
    executor: 'ramping-arrival-rate',
    startRate: rate,
    stages: Array.from({ length: steps }, (_, index) => [
      { target: Math.round(rate * 1.5 ** index), duration: '0s' },
      { target: Math.round(rate * 1.5 ** index), duration: `${seconds}s` },
    ]).flat(),
    preAllocatedVUs: users,
    maxVUs: users,
  },
};
if (!executors[mode]) {
  throw new Error(`MODE: expected ${Object.keys(executors).join(', ')}, received ${mode}`);
}

const scenarios = {};
const thresholds = {};
const grace = 5;
// The next variant begins when the last answers of this one are in, or given up.
const each = (mode === 'steps' ? steps : 1) * seconds + grace + 1;
variants.forEach((variant, index) => {
  scenarios[variant] = {
    ...executors[mode],
    exec: 'act',
    env: { VARIANT: variant },
    startTime: `${index * each}s`,
    gracefulStop: `${grace}s`,
  };
  // Only metrics with a threshold are kept for each scenario; these always hold.
  thresholds[`http_req_duration{scenario:${variant}}`] = ['max>=0'];
  thresholds[`http_req_failed{scenario:${variant}}`] = ['rate>=0'];
  thresholds[`dropped_iterations{scenario:${variant}}`] = ['count>=0'];
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
  const found = (name, variant) => (data.metrics[`${name}{scenario:${variant}}`] || {}).values || {};
  const base = found('http_req_duration', variants[0]).med;
  const total = (mode === 'steps' ? steps : 1) * seconds;
  const rows = variants.map((variant) => {
    const latency = found('http_req_duration', variant);
    const times = [latency.med, latency['p(90)'], latency['p(99)'], latency['p(99.9)'], latency.max];
    return [
      variant,
      ((latency.count || 0) / total).toFixed(1),
      ...times.map((value) => (value === undefined ? '–' : value.toFixed(2))),
      (found('http_req_failed', variant).passes || 0).toString(),
      (found('dropped_iterations', variant).count || 0).toString(),
      latency.med && base ? (latency.med / base).toFixed(3) : '–',
    ];
  });
  const head = ['variant', 'requests/s', 'p50 ms', 'p90 ms', 'p99 ms', 'p99.9 ms', 'max ms'];
  head.push('failed', 'dropped', `p50 / ${variants[0]}`);
  const lines = [head, ...rows].map((row) => row.map((cell) => cell.padStart(12)).join(' '));
  const files = { stdout: `${lines.join('\n')}\n` };
  if (__ENV.OUTPUT) {
    files[__ENV.OUTPUT] = JSON.stringify({ mode, head, rows }, null, 2);
  }
  return files;
}
