import type { WordSource } from './numpy-permutation.js';

const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;
const MASK_64 = (1n << 64n) - 1n;

/**
 * PCG64 (XSL-RR 128/64, O'Neill 2014), seeded by numpy's SeedSequence: numpy's `default_rng(seed)`. numpy does not promise to keep a
 * Generator's draws; 1.17 to 2.4 give these.
 */
export class Pcg64 implements WordSource {
  private state: bigint;
  private readonly increment: bigint;
  /** The high half of the last 64 bits, which the next word takes. */
  private spare: number | undefined;

  /** @param seed a whole number, at most 2^53 - 1 */
  constructor(seed: number) {
    if (!Number.isSafeInteger(seed) || seed < 0) throw new RangeError(`seed: expected a whole number from 0 to ${Number.MAX_SAFE_INTEGER}, got ${seed}`);
    const words = seedSequence(seed, 8);
    const pair = (first: number): bigint => (quad(words, first) << 64n) | quad(words, first + 2);
    this.increment = BigInt.asUintN(128, (pair(4) << 1n) | 1n);
    this.state = BigInt.asUintN(128, this.increment + pair(0));
    this.step();
  }

  /** The low half of 64 bits, then the high half. */
  word(): number {
    if (this.spare !== undefined) {
      const value = this.spare;
      this.spare = undefined;
      return value;
    }
    this.step();
    const folded = (this.state >> 64n) ^ (this.state & MASK_64);
    const turn = this.state >> 122n;
    const bits = BigInt.asUintN(64, (folded >> turn) | (folded << (64n - turn)));
    this.spare = Number(bits >> 32n);
    return Number(bits & 0xffffffffn);
  }

  private step(): void {
    this.state = BigInt.asUintN(128, this.state * MULTIPLIER + this.increment);
  }
}

/** The 64-bit number of two words, least significant first. */
const quad = (words: Uint32Array, first: number): bigint => (BigInt(words[first + 1]) << 32n) | BigInt(words[first]);

/** numpy's SeedSequence(seed).generate_state(count): a pool of four words, mixed by O'Neill's seed_seq_fe, then drawn from. */
function seedSequence(seed: number, count: number): Uint32Array {
  const entropy = [seed >>> 0, Math.floor(seed / 2 ** 32)];
  let hashConstant = 0x43b0d7e5;
  const hash = (word: number): number => {
    let value = word ^ hashConstant;
    hashConstant = Math.imul(hashConstant, 0x931e8875);
    value = Math.imul(value, hashConstant);
    return (value ^ (value >>> 16)) >>> 0;
  };
  const mix = (a: number, b: number): number => {
    const value = (Math.imul(0xca01f9dd, a) - Math.imul(0x4973f715, b)) | 0;
    return (value ^ (value >>> 16)) >>> 0;
  };
  const pool = Uint32Array.from({ length: 4 }, (_, i) => hash(entropy[i] ?? 0));
  for (let from = 0; from < 4; from++) {
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
  }
  let drawConstant = 0x8b51f9dd;
  return Uint32Array.from({ length: count }, (_, i) => {
    let value = pool[i % 4] ^ drawConstant;
    drawConstant = Math.imul(drawConstant, 0x58f38ded);
    value = Math.imul(value, drawConstant);
    return (value ^ (value >>> 16)) >>> 0;
  });
}
