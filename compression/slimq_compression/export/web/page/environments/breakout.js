// MinAtar's Breakout (Young and Tian 2019), version 1.0.15.

import { SIZE, grid } from "./grid.js";

const CHANNELS = { paddle: 0, ball: 1, trail: 2, brick: 3 };
const BRICK_ROWS = [1, 2, 3];
const TURNED = { side: [1, 0, 3, 2], across: [3, 2, 1, 0], corner: [2, 3, 0, 1] };
const MOVES = [
  [-1, -1],
  [1, -1],
  [1, 1],
  [-1, 1],
];

export class Breakout {
  static channels = 4;
  static actions = ["n", "l", "r"];

  reset(random) {
    this.y = 3;
    [this.x, this.direction] = [
      [0, 2],
      [9, 3],
    ][random.integer(0, 2)];
    this.position = 4;
    this.bricks = grid();
    this.lay();
    this.struck = false;
    this.lastX = this.x;
    this.lastY = this.y;
  }

  lay() {
    for (const row of BRICK_ROWS) this.bricks[row].fill(1);
  }

  act(action) {
    let reward = 0;
    let terminated = false;
    if (action === "l") this.position = Math.max(0, this.position - 1);
    else if (action === "r") this.position = Math.min(SIZE - 1, this.position + 1);
    this.lastX = this.x;
    this.lastY = this.y;
    let x = this.x + MOVES[this.direction][0];
    let y = this.y + MOVES[this.direction][1];
    let struck = false;
    if (x < 0 || x > 9) {
      x = Math.min(Math.max(x, 0), 9);
      this.direction = TURNED.side[this.direction];
    }
    if (y < 0) {
      y = 0;
      this.direction = TURNED.across[this.direction];
    } else if (this.bricks[y][x]) {
      struck = true;
      if (!this.struck) {
        reward = 1;
        this.struck = true;
        this.bricks[y][x] = 0;
        y = this.lastY;
        this.direction = TURNED.across[this.direction];
      }
    } else if (y === 9) {
      if (!this.bricks.some((row) => row.some(Boolean))) this.lay();
      if (this.x === this.position) {
        this.direction = TURNED.across[this.direction];
        y = this.lastY;
      } else if (x === this.position) {
        this.direction = TURNED.corner[this.direction];
        y = this.lastY;
      } else {
        terminated = true;
      }
    }
    if (!struck) this.struck = false;
    this.x = x;
    this.y = y;
    return { reward, terminated };
  }

  draw(set) {
    set(this.y, this.x, CHANNELS.ball);
    set(9, this.position, CHANNELS.paddle);
    set(this.lastY, this.lastX, CHANNELS.trail);
    this.bricks.forEach((row, y) => row.forEach((brick, x) => brick && set(y, x, CHANNELS.brick)));
  }
}
