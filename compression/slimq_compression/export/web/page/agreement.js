// Compares Q-values of this browser with those that ONNX Runtime computed in Python.

import { greedy } from "./policy.js";

export class Agreement {
  states = 0;
  same = 0;
  difference = 0;

  add(values, recorded) {
    this.states += 1;
    if (greedy(values) === recorded.action) this.same += 1;
    values.forEach((value, action) => {
      this.difference = Math.max(this.difference, Math.abs(value - recorded.qValues[action]));
    });
  }
}
