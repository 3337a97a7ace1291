import { denestAbsmax, nestAbsmax, type NestedAbsmax } from './nested-absmax.js';

/** Values that share one absmax. */
export const nf4Block = 64;

/**
 * The 16 NF4 levels: quantiles of a normal distribution scaled to [-1, 1], with an exact zero (QLoRA, arXiv 2305.14314,
 * appendix E).
 */
export const nf4Levels = Float32Array.of(
  -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
  -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
  0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
);

/** A flat run of values in NF4, in the layout of bitsandbytes. */
export interface Nf4Values {
  /** Number of values. */
  count: number;
  /** Two codes a byte, the earlier value in the high half; an odd count is padded with a zero. */
  codes: Uint8Array;
  /** Largest magnitude of each block of 64, or the same in 8 bits (double quantisation). */
  absmax: Float32Array | NestedAbsmax;
}

/** Between two neighbouring levels lies the bound; a value on it takes the lower level. */
const bounds = Float32Array.from({ length: 15 }, (_, i) => Math.fround(Math.fround(nf4Levels[i] + nf4Levels[i + 1]) / 2));
/** Cells of 1/32 over [-1, 1]: narrower than any two bounds are apart, so that one comparison decides within a cell. */
const cellsPerUnit = 32;
const cellOf = (value: number): number => ((value + 1) * cellsPerUnit) | 0;
const cellCount = cellOf(1) + 1;
const cellCode = Uint8Array.from({ length: cellCount }, (_, cell) => bounds.filter((bound) => cellOf(bound) < cell).length);
const cellBound = Float32Array.from({ length: cellCount }, (_, cell) => bounds.find((bound) => cellOf(bound) === cell) ?? Infinity);

/** Smallest divisor, so that a block of zeros has no 0/0. */
const tiny = Math.fround(1e-38);

/** Quantises to NF4, bit for bit as bitsandbytes does on a CPU. `values` must be finite. */
export function quantizeNf4(values: Float32Array, options: { doubleQuant: boolean }): Nf4Values {
  const count = values.length;
  const absmax = new Float32Array(Math.ceil(count / nf4Block));
  const unpacked = new Uint8Array(nf4Block);
  const codes = new Uint8Array(Math.ceil(count / 2));
  for (let block = 0; block < absmax.length; block++) {
    const start = block * nf4Block;
    const size = Math.min(nf4Block, count - start);
    let largest = 0;
    for (let i = 0; i < size; i++) {
      const magnitude = Math.abs(values[start + i]);
      if (magnitude > largest) largest = magnitude;
    }
    const whole = size === nf4Block;
    // A whole block multiplies by the reciprocal, the last partial one divides: the two round differently.
    const divisor = Math.max(largest, tiny);
    const reciprocal = Math.fround(1 / divisor);
    absmax[block] = whole ? largest : divisor;
    for (let i = 0; i < size; i++) {
      let scaled = Math.fround(whole ? values[start + i] * reciprocal : values[start + i] / divisor);
      if (scaled > 1) scaled = 1;
      else if (scaled < -1) scaled = -1;
      const cell = ((scaled + 1) * cellsPerUnit) | 0;
      unpacked[i] = scaled > cellBound[cell] ? cellCode[cell] + 1 : cellCode[cell];
    }
    if (size % 2) unpacked[size] = 7; // the level of zero
    for (let i = 0, out = start / 2; i < size; i += 2) codes[out++] = (unpacked[i] << 4) | unpacked[i + 1];
  }
  return { count, codes, absmax: options.doubleQuant ? nestAbsmax(absmax) : absmax };
}

/** The values that the codes stand for: level × absmax of the block. */
export function dequantizeNf4({ count, codes, absmax }: Nf4Values): Float32Array {
  const scales = absmax instanceof Float32Array ? absmax : denestAbsmax(absmax);
  const values = new Float32Array(count);
  for (let block = 0; block < scales.length; block++) {
    const scale = scales[block];
    const end = Math.min(count, (block + 1) * nf4Block);
    for (let i = block * nf4Block; i < end; i++) {
      const code = i % 2 ? codes[i >> 1] & 15 : codes[i >> 1] >> 4;
      values[i] = nf4Levels[code] * scale;
    }
  }
  return values;
}
