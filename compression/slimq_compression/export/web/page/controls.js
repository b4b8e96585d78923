// Buttons and keys, and the clock that they set.

const byId = (id) => document.getElementById(id);
const MIN_SLEEP_MS = 4;
const MAX_BLOCK_MS = 12;

/** Says when steps are due; `rest` is called when it stops, until it goes on. */
export class Clock {
  constructor(rate) {
    this.rate = rate;
    this.speed = 1;
    this.paused = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.steps = 0;
    this.next = performance.now();
    this.yielded = this.next;
    this.wake = () => {};
    this.rest = () => {};
    document.addEventListener("visibilitychange", () => this.wake());
  }

  sleep(milliseconds) {
    return new Promise((resolve) => {
      const timer = milliseconds === Infinity ? 0 : setTimeout(resolve, milliseconds);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Waits until the next step is due; `extra` milliseconds later at the end of an episode. */
  async tick(extra = 0) {
    const due = this.next + (1000 / this.rate + extra) / this.speed;
    this.next = Math.max(due, performance.now() - MAX_BLOCK_MS);
    for (;;) {
      const now = performance.now();
      if (this.paused || document.hidden) {
        if (this.steps > 0) {
          this.steps -= 1;
          return;
        }
        this.rest();
        await this.sleep(Infinity);
        this.next = performance.now();
        continue;
      }
      const left = this.next - now;
      if (left < MIN_SLEEP_MS && now - this.yielded < MAX_BLOCK_MS) return;
      await this.sleep(Math.max(0, left));
      this.yielded = performance.now();
      if (!this.paused && !document.hidden) return;
    }
  }
}

/** Connects buttons and keys; `restart` and `choose` are called with nothing and with a source. */
export function connect(clock, { restart, choose, sources }) {
  const [pause, step, again] = ["pause", "step", "restart"].map(byId);
  const [speed, source] = ["speed", "source"].map(byId);
  const show = () => {
    pause.textContent = clock.paused ? "Play" : "Pause";
  };
  const toggle = () => {
    clock.paused = !clock.paused;
    show();
    clock.wake();
  };
  const single = () => {
    clock.paused = true;
    clock.steps += 1;
    show();
    clock.wake();
  };
  const change = (by) => {
    const index = Math.min(Math.max(speed.selectedIndex + by, 0), speed.options.length - 1);
    speed.selectedIndex = index;
    clock.speed = Number(speed.value);
    clock.wake();
  };
  pause.addEventListener("click", toggle);
  step.addEventListener("click", single);
  again.addEventListener("click", restart);
  speed.addEventListener("change", () => change(0));
  source.addEventListener("change", () => choose(source.value));
  byId("source-label").hidden = sources < 2;
  const keys = { " ": toggle, ArrowRight: single, r: restart, "+": () => change(1), "-": () => change(-1) };
  document.addEventListener("keydown", (event) => {
    const own = event.target.closest("select, a") || (event.key === " " && event.target.closest("button"));
    if (own || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  });
  for (const control of [pause, step, again, speed]) control.disabled = false;
  show();
}
