// MinAtar's Freeway (Young and Tian 2019), version 1.0.15.

import { SIZE } from "./grid.js";

const CHANNELS = { chicken: 0, car: 1, trail: 1 };
const LANES = 8;
const COLUMN = 4;
const PLAYER_WAIT = 3;
const TIME_LIMIT = 2500;

export class Freeway {
  static channels = 7;
  static actions = ["n", "u", "d"];

  reset(random) {
    this.random = random;
    const speeds = this.drawSpeeds();
    this.cars = speeds.map((speed, lane) => ({ x: 0, y: lane + 1, wait: Math.abs(speed), speed }));
    this.position = 9;
    this.playerWait = PLAYER_WAIT;
    this.time = TIME_LIMIT;
  }

  drawSpeeds() {
    const speeds = Array.from({ length: LANES }, () => this.random.integer(1, 6));
    return speeds.map((speed) => speed * Math.sign(this.random.random() - 0.5));
  }

  act(action) {
    let reward = 0;
    if (action === "u" && this.playerWait === 0) {
      this.playerWait = PLAYER_WAIT;
      this.position = Math.max(0, this.position - 1);
    } else if (action === "d" && this.playerWait === 0) {
      this.playerWait = PLAYER_WAIT;
      this.position = Math.min(9, this.position + 1);
    }
    if (this.position === 0) {
      reward = 1;
      this.drawSpeeds().forEach((speed, lane) => {
        Object.assign(this.cars[lane], { wait: Math.abs(speed), speed });
      });
      this.position = 9;
    }
    for (const car of this.cars) this.drive(car);
    if (this.playerWait > 0) this.playerWait -= 1;
    this.time -= 1;
    return { reward, terminated: this.time < 0 };
  }

  drive(car) {
    this.collide(car);
    if (car.wait > 0) {
      car.wait -= 1;
      return;
    }
    car.wait = Math.abs(car.speed);
    car.x = (car.x + (car.speed > 0 ? 1 : -1) + SIZE) % SIZE;
    this.collide(car);
  }

  collide(car) {
    if (car.x === COLUMN && car.y === this.position) this.position = 9;
  }

  draw(set) {
    set(this.position, COLUMN, CHANNELS.chicken);
    for (const car of this.cars) {
      set(car.y, car.x, CHANNELS.car);
      const behind = (car.x + (car.speed > 0 ? -1 : 1) + SIZE) % SIZE;
      set(car.y, behind, CHANNELS.trail + Math.abs(car.speed));
    }
  }
}
