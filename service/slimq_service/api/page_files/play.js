// Two variants play the same episode side by side, in a process of the service.

import { get, pathOf, send } from "./api.js";
import { el, panel } from "./dom.js";
import { plural, whole } from "./format.js";
import { policyLink } from "./links.js";
import { readLines } from "./lines.js";
import { Match } from "./match.js";
import { findPolicy } from "./policy.js";
import { smallest } from "./verdicts.js";

function unavailable(policy) {
  const reason = policy.environment
    ? "This service has no environments, or SLIMQ_GAMES is 0, so nothing can be played here. Install slimq[play] beside slimq[serve] and restart slimq serve; the service's image holds none on purpose."
    : `${policy.name} has no environment, so it cannot be played.`;
  const nodes = [el("p", { id: "unavailable" }, reason)];
  if (policy.environment) nodes.push(el("p", {}, "From a machine with environments, the same episodes over HTTP:"), el("pre", { tabindex: "0", "aria-label": "Command" }, `slimq play ${policy.name} --url ${location.origin}`));
  return panel(null, nodes);
}

function chooser(policy, wanted) {
  const names = policy.variants.filter((row) => !row.problem).map(({ name }) => name);
  const usual = [policy.baseline_variant, smallest(policy.variants)?.name, names.find((name) => name !== policy.baseline_variant)];
  const first = [...new Set([...wanted, ...usual].filter((name) => names.includes(name)))];
  const selects = [first[0], first[1] ?? first[0]].map((chosen, index) => {
    const select = el("select", { id: `variant-${index}` }, names.map((value) => el("option", { value, selected: value === chosen }, value)));
    return el("label", {}, index ? "against " : "Variant ", select);
  });
  const episode = el("input", { id: "episode", type: "number", min: 0, max: 9999, value: 0, required: true });
  const node = [...selects, el("label", {}, "on held-out episode ", episode), el("button", { type: "submit", class: "primary" }, "Play")];
  const read = () => ({ variants: selects.map((label) => label.querySelector("select").value), episode: Number(episode.value) });
  return { node, read };
}

/** A game: asks for it, shows it, and ends it when the view or another game takes its place. */
class Game {
  constructor(policy, manifest, stage, signal) {
    Object.assign(this, { policy, manifest, stage, signal });
    this.running = null;
  }

  async play(asked) {
    this.end();
    const mine = (this.running = new AbortController());
    const match = (this.match = new Match(this.policy, this.manifest, asked.variants));
    this.stage.replaceChildren(match.node);
    match.say("Starting the environment …");
    try {
      const response = await send(`${pathOf(this.policy.name)}/play`, {
        method: "POST",
        body: JSON.stringify(asked),
        headers: { "content-type": "application/json" },
        signal: mine.signal,
      });
      for await (const line of readLines(response.body)) this.take(match, line);
      match.finish();
    } catch (error) {
      if (!mine.signal.aborted) match.fail(error.message);
    }
  }

  take(match, line) {
    if (line.type === "start") match.say(`Episode of seed ${whole(line.seed)}, ε = ${line.epsilon}: both draw the same random numbers.`);
    else if (line.type === "step") match.add(line.sides);
    else if (line.type === "end") match.ended(line);
    else match.fail(line.detail);
  }

  end() {
    this.running?.abort();
    this.match?.stop();
  }
}

export async function showPlay({ parts: [name], parameters, signal }) {
  const [policy, manifest] = await Promise.all([findPolicy(name, signal), get(pathOf(name), { signal })]);
  const able = policy.plays && policy.environment;
  const stage = el("div", { id: "stage" });
  const nodes = [
    el("p", { class: "path" }, el("a", { href: "#/" }, "Policies"), " / ", el("a", { href: policyLink(name) }, name), " / "),
    el("h1", {}, "Play two variants"),
    el("p", { class: "lead" }, `${policy.environment ?? "no environment"}, ${plural(manifest.actions.length, "action")}. Each side plays its own episode from the same seed; the other variant is asked what it would do on every observation.`),
  ];
  if (!able) return { title: `Play ${name}`, nodes: [...nodes, unavailable(policy)] };
  const game = new Game(policy, manifest, stage, signal);
  signal.addEventListener("abort", () => game.end());
  const choice = chooser(policy, (parameters.get("variants") ?? "").split(","));
  const form = el("form", { id: "play", class: "actions", onsubmit: (event) => (event.preventDefault(), game.play(choice.read())) }, choice.node);
  return { title: `Play ${name}`, nodes: [...nodes, form, stage] };
}
