import { tensor, util, type Tensor } from '@tensorflow/tfjs-core';
import { philoxWords, type PhiloxKey } from '../random/philox.js';
import { registerPortableKernel, runKernel } from './kernel.js';

/** Kernel: no inputs, attrs UniformNoiseAttrs → float32 of `shape`. */
export const UniformNoise = 'TemperUniformNoise';
export interface UniformNoiseAttrs {
  shape: number[];
  magnitude: number;
  key: PhiloxKey;
}

/**
 * Uniform in ±magnitude, the same on every backend: element i comes of the low 23 bits of word i of the key's Philox stream, as
 * the middle of one of 2^23 equal parts.
 */
export const uniformNoise = (shape: number[], magnitude: number, key: PhiloxKey): Tensor =>
  runKernel<Tensor>(UniformNoise, {}, { shape, magnitude, key } satisfies UniformNoiseAttrs);

registerPortableKernel<Record<string, never>, UniformNoiseAttrs>(UniformNoise, (_inputs, { shape, magnitude, key }) => {
  const words = philoxWords(key, util.sizeFromShape(shape));
  return tensor(Float32Array.from(words, (word) => (((word & 0x7fffff) + 0.5) / 2 ** 22 - 1) * magnitude), shape, 'float32');
});
