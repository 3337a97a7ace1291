/**
 * Philox4x32, a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): word i of
 * a stream is a pure function of the key and i, so what is drawn never depends on what was drawn before, and a resumed run
 * draws what an uninterrupted one would. Ten rounds are the authors' choice, seven the fewest that pass all of TestU01's BigCrush
 * there: what draws a value for each element of a large tensor takes those.
 */

/** Names one stream. `seed` may use all 53 bits; `step` and `stream` are 32-bit. */
export interface PhiloxKey {
  seed: number;
  step: number;
  /** One per tensor, module or purpose within a step. */
  stream: number;
}

const MULTIPLIER_0 = 0xd2511f53;
const MULTIPLIER_1 = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;
const DEFAULT_ROUNDS = 10;

/** High 32 bits of a·b, both unsigned 32-bit. In 32-bit integers throughout, which takes half the time of products that are doubles. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff, aHigh = a >>> 16, bLow = b & 0xffff, bHigh = b >>> 16;
  const middle = (Math.imul(aHigh, bLow) + (Math.imul(aLow, bLow) >>> 16)) | 0; // both sums stay below 2^32
  const carry = (Math.imul(aLow, bHigh) + (middle & 0xffff)) | 0;
  return (Math.imul(aHigh, bHigh) + (middle >>> 16) + (carry >>> 16)) | 0;
}

/** The block at a counter: four words, written to `out` from `offset`. Counter and key words are unsigned, least significant first. */
export function philoxBlock(
  [counter0, counter1, counter2, counter3]: readonly [number, number, number, number],
  [key0, key1]: readonly [number, number],
  out: Uint32Array,
  offset = 0,
  rounds = DEFAULT_ROUNDS,
): void {
  let c0 = counter0, c1 = counter1, c2 = counter2, c3 = counter3, k0 = key0, k1 = key1;
  for (let round = 0; round < rounds; round++) {
    const high0 = multiplyHigh(MULTIPLIER_0, c0);
    const low0 = Math.imul(MULTIPLIER_0, c0);
    const high1 = multiplyHigh(MULTIPLIER_1, c2);
    const low1 = Math.imul(MULTIPLIER_1, c2);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 = (k0 + WEYL_0) | 0;
    k1 = (k1 + WEYL_1) | 0;
  }
  out[offset] = c0;
  out[offset + 1] = c1;
  out[offset + 2] = c2;
  out[offset + 3] = c3;
}

/** Words `start` … `start + length - 1` of the stream; `start` must be a multiple of 4. Counter: [block low, block high, step, stream]. */
export function philoxWords({ seed, step, stream }: PhiloxKey, length: number, start = 0, rounds = DEFAULT_ROUNDS): Uint32Array {
  if (start % 4 !== 0) throw new RangeError(`start: expected a multiple of 4, got ${start}`);
  const key = [seed >>> 0, Math.floor(seed / 0x100000000) >>> 0] as const;
  const words = new Uint32Array(Math.ceil(length / 4) * 4);
  for (let offset = 0; offset < words.length; offset += 4) {
    const block = (start + offset) / 4;
    philoxBlock([block >>> 0, Math.floor(block / 0x100000000) >>> 0, step >>> 0, stream >>> 0], key, words, offset, rounds);
  }
  return words.subarray(0, length);
}
