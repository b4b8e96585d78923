// The recorded episode: frames as changes from one to the next, actions, rewards and Q-values.

import { arrayOf, sizeOf } from "./policy.js";

export class Episode {
  /** Unpacks the file. */
  static async read(content, report) {
    const { steps, stacked } = report.episode;
    const { observation: layout, actions } = report;
    const packed = new Blob([content]).stream().pipeThrough(new DecompressionStream("gzip"));
    let bytes;
    try {
      bytes = await new Response(packed).arrayBuffer();
    } catch {
      throw new Error(`${report.episode.path} is damaged: export it again`);
    }
    const size = stacked ? sizeOf(layout) / layout.count : sizeOf(layout);
    const kind = arrayOf(layout);
    const width = size * kind.BYTES_PER_ELEMENT;
    const expected = steps * (width + 2 + 4 + 4 * actions.length);
    if (bytes.byteLength !== expected) {
      throw new Error(`${report.episode.path} has ${bytes.byteLength} bytes, not ${expected}`);
    }
    const rows = new Uint8Array(bytes, 0, steps * width);
    for (let place = width; place < rows.length; place += 1) rows[place] ^= rows[place - width];
    let place = rows.length;
    const take = (type, count) => {
      const end = place + count * type.BYTES_PER_ELEMENT;
      const values = new type(bytes.slice(place, end));
      place = end;
      return values;
    };
    const episode = new Episode();
    episode.frames = new kind(rows.slice().buffer);
    episode.frameSize = size;
    episode.actions = take(Uint16Array, steps);
    episode.rewards = take(Float32Array, steps);
    episode.qValues = take(Float32Array, steps * actions.length);
    episode.actionCount = actions.length;
    return episode;
  }

  get length() {
    return this.actions.length;
  }

  frame(step) {
    return this.frames.subarray(step * this.frameSize, (step + 1) * this.frameSize);
  }

  recordedQ(step) {
    return this.qValues.subarray(step * this.actionCount, (step + 1) * this.actionCount);
  }
}
