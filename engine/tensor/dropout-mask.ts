import { tensor, util, type Tensor } from '@tensorflow/tfjs-core';
import { EngineError } from '../errors.js';
import { philoxWords, type PhiloxKey } from '../random/philox.js';
import { registerPortableKernel, runKernel } from './kernel.js';
import { isNative } from './tensorflow-native.js';
import { dropoutMaskNative } from './dropout-mask-native.js';
import { dropoutInflation, dropoutThreshold } from './dropout-rate.js';

/** Kernel: no inputs, attrs DropoutMaskAttrs → float32 of `shape`. */
export const DropoutMask = 'TemperDropoutMask';
export interface DropoutMaskAttrs {
  shape: number[];
  rate: number;
  key: PhiloxKey;
}

/**
 * 0 with probability `rate` (in steps of 1/32768), else one over the probability of being kept; the same on every backend.
 * Element i has half i % 2 (the low one first) of word i / 2 of the key's Philox stream, and is kept when the half's low 15 bits
 * reach `dropoutThreshold(rate)`.
 * @param rate in [0, 1)
 */
export function dropoutMask(shape: number[], rate: number, key: PhiloxKey): Tensor {
  if (!(rate >= 0 && rate < 1)) throw new EngineError('internal', 'bad_rate', `dropoutMask: rate: expected 0 ≤ rate < 1, got ${rate}`);
  return runKernel<Tensor>(DropoutMask, {}, { shape, rate, key } satisfies DropoutMaskAttrs);
}

registerPortableKernel<Record<string, never>, DropoutMaskAttrs>(DropoutMask, (_inputs, { shape, rate, key }) => {
  if (isNative()) return dropoutMaskNative(shape, rate, key);
  const size = util.sizeFromShape(shape);
  const words = philoxWords(key, Math.ceil(size / 2));
  const threshold = dropoutThreshold(rate), kept = dropoutInflation(rate);
  return tensor(Float32Array.from({ length: size }, (_, i) => (((words[i >> 1] >>> (16 * (i & 1))) & 0x7fff) >= threshold ? kept : 0)), shape);
});
