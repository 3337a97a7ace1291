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
export function nestAbsmax(scales: Float32Array, offset = mean(scales)): NestedAbsmax {
  const codes = new Uint8Array(scales.length);
  const absmax = new Float32Array(Math.ceil(scales.length / nestedBlock));
  for (let block = 0; block < absmax.length; block++) {
    const start = block * nestedBlock;
    const centred = scales.subarray(start, start + nestedBlock).map((scale) => scale - offset);
    const largest = centred.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
    absmax[block] = largest;
    const reciprocal = Math.fround(1 / largest);
    centred.forEach((value, i) => {
      codes[start + i] = nearestLevel(largest === 0 ? 0 : Math.fround(value * reciprocal));
    });
  }
  return { codes, absmax, offset };
}

/** The block scales that a nested absmax stands for. */
export const denestAbsmax = ({ codes, absmax, offset }: NestedAbsmax): Float32Array =>
  Float32Array.from(codes, (code, i) => Math.fround(dynamicLevels[code] * absmax[Math.floor(i / nestedBlock)]) + offset);

const mean = (values: Float32Array): number => Math.fround(values.reduce((sum, value) => sum + value, 0) / Math.max(values.length, 1));

/** Index of the level nearest to a value in [-1, 1]. */
function nearestLevel(value: number): number {
  let low = 0;
  let high = 255;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (dynamicLevels[middle] <= value) low = middle;
    else high = middle - 1;
  }
  if (low === 255) return low;
  const below = Math.fround(Math.abs(value - dynamicLevels[low]));
  const above = Math.fround(Math.abs(dynamicLevels[low + 1] - value));
  return above < below ? low + 1 : low;
}
