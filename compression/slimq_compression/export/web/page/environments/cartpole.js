// CartPole-v1 as in gymnasium (Barto, Sutton and Anderson 1983), in double precision.

import { Pcg64 } from "./random.js";

const GRAVITY = 9.8;
const POLE_MASS = 0.1;
const TOTAL_MASS = 1.1;
const HALF_LENGTH = 0.5;
const FORCE = 10;
const SECONDS = 0.02;
const MAX_POSITION = 2.4;
const MAX_ANGLE = (12 * 2 * Math.PI) / 360;

export class CartPole {
  /** The observation of a new episode. */
  reset(seed) {
    const generator = new Pcg64(seed);
    this.state = Array.from({ length: 4 }, () => generator.uniform(-0.05, 0.05));
    return Float32Array.from(this.state);
  }

  step(action) {
    let [position, speed, angle, turning] = this.state;
    const cosine = Math.cos(angle);
    const sine = Math.sin(angle);
    const force = action === 1 ? FORCE : -FORCE;
    const pull = (force + POLE_MASS * HALF_LENGTH * (turning * turning) * sine) / TOTAL_MASS;
    const angular =
      (GRAVITY * sine - cosine * pull) /
      (HALF_LENGTH * (4 / 3 - (POLE_MASS * (cosine * cosine)) / TOTAL_MASS));
    const linear = pull - (POLE_MASS * HALF_LENGTH * angular * cosine) / TOTAL_MASS;
    position += SECONDS * speed;
    speed += SECONDS * linear;
    angle += SECONDS * turning;
    turning += SECONDS * angular;
    this.state = [position, speed, angle, turning];
    const terminated = Math.abs(position) > MAX_POSITION || Math.abs(angle) > MAX_ANGLE;
    return { observation: Float32Array.from(this.state), reward: 1, terminated };
  }
}
