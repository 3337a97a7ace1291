import { dynamicLevels } from './dynamic-levels.js';

/** Absmax values that share one absmax of their own. */
export const nestedBlock = 256;

/** Double quantisation: the absmax of blocks, less their mean, in 8 bits (QLoRA, arXiv 2305.14314, section 3). */
export interface NestedAbsmax {
  /** One code a block of weights, into the dynamic 8-bit levels. */
  codes: Uint8Array;
  /** Largest magnitude of each 256 of (absmax - offset). */
  absmax: Float32Array;
  /** Mean of the absmax. */
  offset: number;
}

/** Quantises block scales to 8 bits. `offset`: their mean in float32. @default the correctly rounded mean */
export function nestAbsmax(scales: Float32Array, offset = meanScale(scales)): NestedAbsmax {
  const codes = new Uint8Array(scales.length);
  const absmax = new Float32Array(Math.ceil(scales.length / nestedBlock));
  for (let block = 0; block < absmax.length; block++) {
    const start = block * nestedBlock;
    const centred = scales.subarray(start, start + nestedBlock).map((scale) => scale - offset);
    const largest = centred.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
    absmax[block] = largest;
    const reciprocal = Math.fround(1 / largest);
    centred.forEach((value, i) => {
      codes[start + i] = levelOfCells[cellOf(Math.fround(value * reciprocal))];
    });
  }
  return { codes, absmax, offset };
}

/** The block scales that a nested absmax stands for. */
export const denestAbsmax = ({ codes, absmax, offset }: NestedAbsmax): Float32Array =>
  Float32Array.from(codes, (code, i) => Math.fround(dynamicLevels[code] * absmax[Math.floor(i / nestedBlock)]) + offset);

/** Correctly rounded mean of block scales: the sum is in float64, in their order. */
export function meanScale(values: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i];
  return Math.fround(sum / Math.max(values.length, 1));
}

/**
 * Cell 0 to 65,535 of a value in [-1, 1]; the code is looked up by cell, so a value near the middle of two levels may take the
 * farther one. NaN, from a block of zeros, counts as -1.
 */
function cellOf(value: number): number {
  const clamped = value >= -1 ? Math.min(value, 1) : -1;
  return Math.trunc(Math.fround(Math.fround(Math.fround(Math.fround(clamped + 1) * 0.5) * 65535) + 0.5));
}

/** Code of the level nearest to the middle of each cell. */
export const levelOfCells: Uint8Array = levelsOfCells();

function levelsOfCells(): Uint8Array {
  const codes = new Uint8Array(65536);
  for (let cell = 0, code = 0; cell < codes.length; cell++) {
    const value = (cell / 65535) * 2 - 1;
    while (code < 255 && value > (dynamicLevels[code] + dynamicLevels[code + 1]) / 2) code++;
    codes[cell] = code;
  }
  return codes;
}
