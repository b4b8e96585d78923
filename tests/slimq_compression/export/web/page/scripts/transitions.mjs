// Plays an environment of the page as told on standard input; prints observations, rewards, ends.

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder] = process.argv.slice(2);
const { makeEnvironment } = await import(pathToFileURL(`${folder}/index.js`).href);
const { environment, episodes, states } = JSON.parse(readFileSync(0, "utf8"));
const played = makeEnvironment(environment);
const results = episodes.map(({ seed, actions }) => {
  const observations = [Array.from(played.reset(seed))];
  const rewards = [];
  const ends = [];
  for (const action of actions) {
    const { observation, reward, terminated } = played.step(action);
    observations.push(Array.from(observation));
    rewards.push(reward);
    ends.push(terminated);
  }
  return { observations, rewards, ends };
});
const steps = (states ?? []).map(({ state, action }) => {
  played.state = state;
  const { terminated } = played.step(action);
  return { state: played.state, terminated };
});
process.stdout.write(JSON.stringify({ results, steps }));
