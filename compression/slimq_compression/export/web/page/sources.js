// Where observations come from: an environment in the page, or a recorded episode.
//
// Both have `begin()`, which gives the first frame, and `step(action)`, which gives
// { frame, reward, ended }; a recorded episode also has `recorded()`, what was done at this step.

/** Episodes of an environment in the page, on consecutive seeds. */
export class Live {
  constructor(environment, maxSteps, seed) {
    this.environment = environment;
    this.maxSteps = maxSteps;
    this.nextSeed = seed;
  }

  begin() {
    this.seed = this.nextSeed;
    this.nextSeed += 1;
    this.steps = 0;
    return this.environment.reset(this.seed);
  }

  step(action) {
    const { observation, reward, terminated } = this.environment.step(action);
    this.steps += 1;
    return { frame: observation, reward, ended: terminated || this.steps >= this.maxSteps };
  }
}

/** The recorded episode, over and over; the actions of the policy here change nothing in it. */
export class Recorded {
  constructor(episode, seed) {
    this.episode = episode;
    this.seed = seed;
  }

  begin() {
    this.place = 0;
    return this.episode.frame(0);
  }

  recorded() {
    return { action: this.episode.actions[this.place], qValues: this.episode.recordedQ(this.place) };
  }

  step() {
    const reward = this.episode.rewards[this.place];
    this.place += 1;
    const ended = this.place >= this.episode.length;
    return { frame: ended ? null : this.episode.frame(this.place), reward, ended };
  }
}
