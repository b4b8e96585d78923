// MinAtar's Space Invaders (Young and Tian 2019), version 1.0.15.

import { SIZE, grid } from "./grid.js";

const CHANNELS = { cannon: 0, alien: 1, left: 2, right: 3, ownBullet: 4, enemyBullet: 5 };
const SHOT_WAIT = 5;
const MOVE_INTERVAL = 12;
const MIN_RAMPED_INTERVAL = 6;
const ENEMY_SHOT_INTERVAL = 10;

const count = (field) => field.flat().filter(Boolean).length;

export class SpaceInvaders {
  static channels = 6;
  static actions = ["n", "l", "r", "f"];

  constructor({ ramping }) {
    this.ramping = ramping;
  }

  reset() {
    this.position = 5;
    this.ownBullets = grid();
    this.enemyBullets = grid();
    this.aliens = grid();
    this.land();
    this.direction = -1;
    this.moveInterval = MOVE_INTERVAL;
    this.moveWait = MOVE_INTERVAL;
    this.enemyShotWait = ENEMY_SHOT_INTERVAL;
    this.shotWait = 0;
  }

  land() {
    for (let row = 0; row < 4; row += 1) this.aliens[row].fill(1, 2, 8);
  }

  act(action) {
    let terminated = false;
    if (action === "f" && this.shotWait === 0) {
      this.ownBullets[9][this.position] = 1;
      this.shotWait = SHOT_WAIT;
    } else if (action === "l") {
      this.position = Math.max(0, this.position - 1);
    } else if (action === "r") {
      this.position = Math.min(9, this.position + 1);
    }
    this.ownBullets = [...this.ownBullets.slice(1), new Array(SIZE).fill(0)];
    this.enemyBullets = [new Array(SIZE).fill(0), ...this.enemyBullets.slice(0, -1)];
    if (this.enemyBullets[9][this.position] || this.aliens[9][this.position]) terminated = true;
    if (this.moveWait === 0 && this.move()) terminated = true;
    if (this.enemyShotWait === 0) {
      this.enemyShotWait = ENEMY_SHOT_INTERVAL;
      this.shoot();
    }
    const reward = this.hit();
    if (this.shotWait > 0) this.shotWait -= 1;
    this.moveWait -= 1;
    this.enemyShotWait -= 1;
    if (count(this.aliens) === 0) {
      if (this.moveInterval > MIN_RAMPED_INTERVAL && this.ramping) this.moveInterval -= 1;
      this.land();
    }
    return { reward, terminated };
  }

  /** Moves all aliens; returns whether they have reached the player. */
  move() {
    this.moveWait = Math.min(count(this.aliens), this.moveInterval);
    const edge = this.direction < 0 ? 0 : 9;
    let reached = false;
    if (this.aliens.some((row) => row[edge])) {
      this.direction = -this.direction;
      reached = this.aliens[9].some(Boolean);
      this.aliens = [this.aliens[9], ...this.aliens.slice(0, 9)];
    } else if (this.direction < 0) {
      this.aliens = this.aliens.map((row) => [...row.slice(1), row[0]]);
    } else {
      this.aliens = this.aliens.map((row) => [row[9], ...row.slice(0, 9)]);
    }
    return reached || Boolean(this.aliens[9][this.position]);
  }

  /** The lowest alien of the column nearest to the player shoots; the left one of two. */
  shoot() {
    const distance = (column) => Math.abs(column - this.position);
    const columns = [...Array(SIZE).keys()].sort((a, b) => distance(a) - distance(b));
    for (const column of columns) {
      for (let row = 9; row >= 0; row -= 1) {
        if (this.aliens[row][column]) {
          this.enemyBullets[row][column] = 1;
          return;
        }
      }
    }
  }

  hit() {
    let hits = 0;
    for (let row = 0; row < SIZE; row += 1) {
      for (let column = 0; column < SIZE; column += 1) {
        if (this.aliens[row][column] && this.ownBullets[row][column]) {
          this.aliens[row][column] = 0;
          this.ownBullets[row][column] = 0;
          hits += 1;
        }
      }
    }
    return hits;
  }

  draw(set) {
    const paint = (field, channel) =>
      field.forEach((row, y) => row.forEach((value, x) => value && set(y, x, channel)));
    set(9, this.position, CHANNELS.cannon);
    paint(this.aliens, CHANNELS.alien);
    paint(this.aliens, this.direction < 0 ? CHANNELS.left : CHANNELS.right);
    paint(this.ownBullets, CHANNELS.ownBullet);
    paint(this.enemyBullets, CHANNELS.enemyBullet);
  }
}
