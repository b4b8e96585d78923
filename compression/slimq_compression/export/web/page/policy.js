// The policy: observations in, Q-values out. Scaling, one-hot codes and normalization are in the
// model's graph; what is left to do is to stack frames.

const ARRAYS = { uint8: Uint8Array, int32: Int32Array, float32: Float32Array };

export const arrayOf = (layout) => ARRAYS[layout.dtype];
export const sizeOf = (layout) => layout.shape.reduce((size, length) => size * length, 1);

/** The newest frames of an episode, oldest first along the layout's axis; zeros before its first. */
export class FrameStack {
  constructor(layout) {
    const { shape, axis, count } = layout;
    this.values = new (arrayOf(layout))(sizeOf(layout));
    this.outer = axis === null ? 1 : shape.slice(0, axis).reduce((size, length) => size * length, 1);
    this.block = this.values.length / this.outer;
    this.fresh = this.block / count;
  }

  get frameSize() {
    return this.outer * this.fresh;
  }

  reset() {
    this.values.fill(0);
  }

  /** The newest frame. */
  newest() {
    const { values, outer, block, fresh } = this;
    const frame = new values.constructor(this.frameSize);
    for (let row = 0; row < outer; row += 1) {
      const end = (row + 1) * block;
      frame.set(values.subarray(end - fresh, end), row * fresh);
    }
    return frame;
  }

  push(frame) {
    const { values, outer, block, fresh } = this;
    for (let row = 0; row < outer; row += 1) {
      const end = (row + 1) * block;
      values.copyWithin(row * block, row * block + fresh, end);
      values.set(frame.subarray(row * fresh, (row + 1) * fresh), end - fresh);
    }
  }
}

export class Policy {
  constructor(runtime, session, layout) {
    this.runtime = runtime;
    this.session = session;
    this.layout = layout;
    this.shape = [1, ...layout.shape];
  }

  /** Creates the session of a model; an error names the operator that the runtime lacks. */
  static async load(runtime, model, layout) {
    try {
      const session = await runtime.InferenceSession.create(model, { executionProviders: ["wasm"] });
      return new Policy(runtime, session, layout);
    } catch (error) {
      throw new Error(`ONNX Runtime Web cannot run this model: ${error.message}`);
    }
  }

  /** Q-values of one observation, as flat values in the layout's type. */
  async qValues(observation) {
    const tensor = new this.runtime.Tensor(this.layout.dtype, observation, this.shape);
    const { q_values: found } = await this.session.run({ observation: tensor });
    return found.data;
  }
}

/** The first of the largest Q-values. */
export function greedy(values) {
  return values.reduce((best, value, action) => (value > values[best] ? action : best), 0);
}
