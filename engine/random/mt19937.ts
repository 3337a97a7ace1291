import type { WordSource } from './numpy-permutation.js';

const SIZE = 624;
const SHIFT = 397;
const MATRIX = 0x9908b0df;

/** The Mersenne Twister (Matsumoto and Nishimura, 1998), seeded as numpy's `RandomState(seed)`. numpy keeps this stream fixed (NEP 19). */
export class Mt19937 implements WordSource {
  private readonly state = new Uint32Array(SIZE);
  private next = SIZE;

  /** @param seed 0 … 2^32 - 1 */
  constructor(seed: number) {
    if (!Number.isInteger(seed) || seed < 0 || seed > 0xffffffff) throw new RangeError(`seed: expected a whole number from 0 to 4294967295, got ${seed}`);
    for (let i = 0, value = seed; i < SIZE; i++) {
      this.state[i] = value;
      value = (Math.imul(1812433253, value ^ (value >>> 30)) + i + 1) >>> 0;
    }
  }

  word(): number {
    if (this.next === SIZE) this.refill();
    let value = this.state[this.next++];
    value ^= value >>> 11;
    value ^= (value << 7) & 0x9d2c5680;
    value ^= (value << 15) & 0xefc60000;
    return (value ^ (value >>> 18)) >>> 0;
  }

  private refill(): void {
    const { state } = this;
    for (let i = 0; i < SIZE; i++) {
      const bits = (state[i] & 0x80000000) | (state[(i + 1) % SIZE] & 0x7fffffff);
      state[i] = state[(i + SHIFT) % SIZE] ^ (bits >>> 1) ^ (bits & 1 ? MATRIX : 0);
    }
    this.next = 0;
  }
}
