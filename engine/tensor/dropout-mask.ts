import { tensor, util, type Tensor } from '@tensorflow/tfjs-core';
import { EngineError } from '../errors.js';
import { philoxWords, type PhiloxKey } from '../random/philox.js';
import { registerPortableKernel, runKernel } from './kernel.js';
import { isNative } from './tensorflow-native.js';
import { dropoutMaskNative } from './dropout-mask-native.js';

/** Kernel: no inputs, attrs DropoutMaskAttrs → float32 of `shape`. */
export const DropoutMask = 'TemperDropoutMask';
export interface DropoutMaskAttrs {
  shape: number[];
  rate: number;
  key: PhiloxKey;
}

/**
 * 0 with probability `rate`, else 1 / (1 - rate), the same on every backend: element i is kept when the low 23 bits of word
 * i of the key's Philox stream, as a fraction of 2^23, are at least float32(rate).
 * @param rate in [0, 1)
 */
export function dropoutMask(shape: number[], rate: number, key: PhiloxKey): Tensor {
  if (!(rate >= 0 && rate < 1)) throw new EngineError('internal', 'bad_rate', `dropoutMask: rate: expected 0 ≤ rate < 1, got ${rate}`);
  return runKernel<Tensor>(DropoutMask, {}, { shape, rate, key } satisfies DropoutMaskAttrs);
}

registerPortableKernel<Record<string, never>, DropoutMaskAttrs>(DropoutMask, (_inputs, { shape, rate, key }) => {
  if (isNative()) return dropoutMaskNative(shape, rate, key);
  const words = philoxWords(key, util.sizeFromShape(shape));
  const threshold = Math.fround(rate) * 2 ** 23;
  const kept = Math.fround(1 / (1 - rate));
  return tensor(Float32Array.from(words, (word) => ((word & 0x7fffff) >= threshold ? kept : 0)), shape);
});
