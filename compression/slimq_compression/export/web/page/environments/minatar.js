// MinAtar's interface to its games: sticky actions, numbers of actions, fields of channels.

import { Breakout } from "./breakout.js";
import { Freeway } from "./freeway.js";
import { SIZE } from "./grid.js";
import { MersenneTwister } from "./random.js";
import { SpaceInvaders } from "./space_invaders.js";

const GAMES = { breakout: Breakout, freeway: Freeway, space_invaders: SpaceInvaders };
const ALL_ACTIONS = ["n", "l", "u", "r", "d", "f"];

export class MinAtar {
  /**
   * @param {{game: string, minimal_actions: boolean, sticky_action_prob: number,
   *   difficulty_ramping: boolean}} options
   */
  constructor(options) {
    this.kind = GAMES[options.game];
    this.sticky = options.sticky_action_prob;
    this.actions = options.minimal_actions ? this.kind.actions : ALL_ACTIONS;
    this.game = new this.kind({ ramping: options.difficulty_ramping });
  }

  reset(seed) {
    this.random = new MersenneTwister(seed);
    this.lastAction = "n";
    this.game.reset(this.random);
    return this.observe();
  }

  step(action) {
    const repeated = this.random.random() < this.sticky;
    this.lastAction = repeated ? this.lastAction : this.actions[action];
    const { reward, terminated } = this.game.act(this.lastAction);
    return { observation: this.observe(), reward, terminated };
  }

  /** Rows, columns, channels. */
  observe() {
    const { channels } = this.kind;
    const field = new Uint8Array(SIZE * SIZE * channels);
    this.game.draw((row, column, channel) => {
      field[(row * SIZE + column) * channels + channel] = 1;
    });
    return field;
  }
}
