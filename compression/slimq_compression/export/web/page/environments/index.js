// The environments that a page can play itself, by the name in its report.

import { CartPole } from "./cartpole.js";
import { MinAtar } from "./minatar.js";

const KINDS = { cartpole: CartPole, minatar: MinAtar };

export function makeEnvironment({ kind, options }) {
  return new KINDS[kind](options);
}
