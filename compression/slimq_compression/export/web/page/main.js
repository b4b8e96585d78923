// Loads the export and lets its policy play.

import { Agreement } from "./agreement.js";
import { Clock, connect } from "./controls.js";
import { draw } from "./drawings.js";
import { makeEnvironment } from "./environments/index.js";
import { Episode } from "./episode.js";
import { fetchBytes, fetchExact, fetchJson } from "./files.js";
import { Bars, short, showEvidence, showFiles, showHeading, showNumbers, whole } from "./panels.js";
import { FrameStack, Policy, greedy } from "./policy.js";
import { Live, Recorded } from "./sources.js";

const WASM = "runtime/ort-wasm-simd-threaded.wasm";
const END_MS = 800;
const TIMED_CALLS = 200;
const WARM_UP_CALLS = 5;
const SHOW_EVERY_MS = 15;
const byId = (id) => document.getElementById(id);

function fail(error) {
  const status = byId("status");
  status.hidden = false;
  status.classList.add("problem");
  status.setAttribute("role", "alert");
  byId("progress").hidden = true;
  byId("status-text").textContent = error.message;
}

/** Says what is being loaded, unless something else has failed meanwhile. */
function say(text) {
  if (!byId("status").classList.contains("problem")) byId("status-text").textContent = text;
}

async function loadRuntime(report) {
  const runtime = await import("./runtime/ort.wasm.bundle.min.js").catch(() => {
    throw new Error("runtime/ort.wasm.bundle.min.js could not be loaded");
  });
  const progress = byId("progress");
  const total = (report.runtime.bytes / 1e6).toFixed(1);
  const wasm = await fetchBytes(WASM, (bytes) => {
    progress.value = bytes / report.runtime.bytes;
    say(`Loading the runtime: ${(bytes / 1e6).toFixed(1)} of ${total} MB`);
  });
  say("Starting the runtime …");
  progress.removeAttribute("value");
  // The page compiles the bytes itself: a server may send them with any media type.
  runtime.env.wasm.wasmBinary = wasm.buffer;
  runtime.env.wasm.numThreads = 1; // more need headers that a plain file server does not send
  runtime.env.logLevel = "error";
  return runtime;
}

/** A policy, a source and the panels that show them. */
class Play {
  constructor(report, policy, sources) {
    this.report = report;
    this.policy = policy;
    this.sources = sources;
    this.source = Object.values(sources)[0];
    this.stack = new FrameStack(report.observation);
    this.bars = new Bars(report.actions);
    this.clock = new Clock(report.drawing.rate);
    this.returns = [];
    this.times = [];
    this.calls = 0;
    this.shown = 0;
    this.last = null;
    this.clock.rest = () => this.last && this.show(...this.last);
    this.begin();
  }

  begin() {
    this.frame = this.source.begin();
    this.stack.reset();
    this.bars.reset();
    this.agreement = this.source.recorded && new Agreement();
    this.steps = 0;
    this.total = 0;
    this.restarting = false;
  }

  async run() {
    for (;;) {
      const ended = await this.turn();
      await this.clock.tick(ended ? END_MS : 0);
      if (ended || this.restarting) this.begin();
    }
  }

  /** One action; returns whether it ended the episode. */
  async turn() {
    const { source, stack } = this;
    if (this.frame.length === stack.frameSize) stack.push(this.frame);
    else stack.values.set(this.frame);
    const began = performance.now();
    const values = await this.policy.qValues(stack.values);
    this.time(performance.now() - began);
    const action = greedy(values);
    this.bars.note(values);
    if (this.agreement) this.agreement.add(values, source.recorded());
    const { frame, reward, ended } = source.step(action);
    this.steps += 1;
    this.total += reward;
    if (ended && !this.agreement) this.returns.push(this.total);
    this.last = [values, action, ended];
    this.show(...this.last);
    this.frame = frame;
    return ended;
  }

  time(milliseconds) {
    this.calls += 1;
    if (this.calls <= WARM_UP_CALLS) return;
    this.times.push(milliseconds);
    if (this.times.length > TIMED_CALLS) this.times.shift();
  }

  show(values, action, ended) {
    const now = performance.now();
    if (now - this.shown < SHOW_EVERY_MS && !ended && !this.clock.paused) return;
    this.shown = now;
    draw(byId("canvas"), this.report, this.stack.newest(), action);
    this.bars.show(values);
    showNumbers(this.numbers());
    if (this.firstAction === undefined) {
      this.firstAction = now;
      performance.mark("first-action");
      byId("status").hidden = true;
      showNumbers(this.numbers());
    }
  }

  numbers() {
    const { agreement, times, returns } = this;
    const facts = [["Step", whole(this.steps)]];
    if (this.report.episode.seed !== null) {
      facts.push(["Return so far", short(this.total)], ["Seed", String(this.source.seed)]);
    }
    if (returns.length) {
      const mean = returns.reduce((sum, value) => sum + value, 0) / returns.length;
      facts.push(["Episodes here", `${returns.length}, mean return ${short(mean)}`]);
    }
    if (agreement) {
      facts.push(
        ["As in Python", `${whole(agreement.same)} of ${whole(agreement.states)} actions`],
        ["Largest ΔQ", agreement.difference.toExponential(1)],
      );
    }
    if (times.length) {
      const mean = times.reduce((sum, value) => sum + value, 0) / times.length;
      facts.push(["Time per action", `${mean.toFixed(3)} ms, mean of ${times.length}`]);
    }
    if (this.firstAction !== undefined) {
      facts.push(["First action", `${whole(Math.round(this.firstAction))} ms after the page began to load`]);
    }
    return facts;
  }

  restart() {
    this.restarting = true;
    this.clock.steps += this.clock.paused ? 1 : 0;
    this.clock.wake();
  }

  choose(name) {
    this.source = this.sources[name];
    this.restart();
  }
}

async function start() {
  const report = await fetchJson("report.json");
  showHeading(report);
  showEvidence(report);
  showFiles(report);
  const [runtime, model, recording] = await Promise.all([
    loadRuntime(report),
    fetchExact(report.model),
    fetchExact(report.episode),
  ]);
  const policy = await Policy.load(runtime, model, report.observation);
  const sources = {};
  const { page_environment: own, episode } = report;
  if (own) sources.live = new Live(makeEnvironment(own), own.max_steps, episode.seed);
  sources.recorded = new Recorded(await Episode.read(recording, report), episode.seed);
  const play = new Play(report, policy, sources);
  connect(play.clock, {
    restart: () => play.restart(),
    choose: (name) => play.choose(name),
    sources: Object.keys(sources).length,
  });
  await play.run();
}

if (!document.documentElement.dataset.problem) start().catch(fail);
