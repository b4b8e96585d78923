// numpy's generators, bit for bit, so that an episode here begins as it does in Python.
//
// Pcg64: PCG XSL-RR 128/64 (O'Neill 2014), seeded by SeedSequence; gymnasium's environments use it.
// MersenneTwister: MT19937 (Matsumoto and Nishimura 1998), as numpy's RandomState; MinAtar uses it.

const MASK_64 = (1n << 64n) - 1n;
const MASK_128 = (1n << 128n) - 1n;
const PCG_MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;
const POOL_WORDS = 4;

/** Words of 32 bits that numpy's SeedSequence makes of an integer seed below 2 ** 32. */
export function seedWords(seed, count) {
  let constant = 0x43b0d7e5;
  const hash = (value) => {
    value ^= constant;
    constant = Math.imul(constant, 0x931e8875);
    value = Math.imul(value, constant);
    return value ^ (value >>> 16);
  };
  const mix = (x, y) => {
    const mixed = Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y);
    return mixed ^ (mixed >>> 16);
  };
  const pool = Array.from({ length: POOL_WORDS }, (_, word) => hash(word ? 0 : seed));
  for (let from = 0; from < POOL_WORDS; from += 1) {
    for (let to = 0; to < POOL_WORDS; to += 1) {
      if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
    }
  }
  let output = 0x8b51f9dd;
  return Array.from({ length: count }, (_, index) => {
    let word = pool[index % POOL_WORDS] ^ output;
    output = Math.imul(output, 0x58f38ded);
    word = Math.imul(word, output);
    return (word ^ (word >>> 16)) >>> 0;
  });
}

export class Pcg64 {
  constructor(seed) {
    const words = seedWords(seed, 8).map(BigInt);
    const long = (place) => (words[place + 1] << 32n) | words[place];
    const start = (long(0) << 64n) | long(2);
    const stream = (long(4) << 64n) | long(6);
    this.increment = ((stream << 1n) | 1n) & MASK_128;
    this.state = 0n;
    this.advance();
    this.state = (this.state + start) & MASK_128;
    this.advance();
  }

  advance() {
    this.state = (this.state * PCG_MULTIPLIER + this.increment) & MASK_128;
  }

  bits64() {
    this.advance();
    const folded = (this.state >> 64n) ^ (this.state & MASK_64);
    const turn = this.state >> 122n;
    return ((folded >> turn) | (folded << (64n - turn))) & MASK_64;
  }

  /** A number from 0 to 1, without 1, with 53 bits. */
  random() {
    return Number(this.bits64() >> 11n) / 2 ** 53;
  }

  uniform(low, high) {
    return low + (high - low) * this.random();
  }
}

const LENGTH = 624;
const MIDDLE = 397;

export class MersenneTwister {
  constructor(seed) {
    this.words = new Uint32Array(LENGTH);
    let word = seed >>> 0;
    for (let place = 0; place < LENGTH; place += 1) {
      this.words[place] = word;
      word = (Math.imul(1812433253, word ^ (word >>> 30)) + place + 1) >>> 0;
    }
    this.place = LENGTH;
  }

  bits32() {
    if (this.place === LENGTH) this.renew();
    let word = this.words[this.place];
    this.place += 1;
    word ^= word >>> 11;
    word ^= (word << 7) & 0x9d2c5680;
    word ^= (word << 15) & 0xefc60000;
    return (word ^ (word >>> 18)) >>> 0;
  }

  renew() {
    const { words } = this;
    for (let place = 0; place < LENGTH; place += 1) {
      const both = (words[place] & 0x80000000) | (words[(place + 1) % LENGTH] & 0x7fffffff);
      words[place] = words[(place + MIDDLE) % LENGTH] ^ (both >>> 1) ^ (both & 1 ? 0x9908b0df : 0);
    }
    this.place = 0;
  }

  /** A number from 0 to 1, without 1, with 53 bits. */
  random() {
    const high = this.bits32() >>> 5;
    return (high * 2 ** 26 + (this.bits32() >>> 6)) / 2 ** 53;
  }

  /** An integer from `low` to `high`, without `high`. */
  integer(low, high) {
    const most = high - low - 1;
    if (most === 0) return low;
    const mask = 2 ** (32 - Math.clz32(most)) - 1;
    for (;;) {
      const drawn = (this.bits32() & mask) >>> 0;
      if (drawn <= most) return low + drawn;
    }
  }
}
