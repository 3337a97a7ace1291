import { tensor, util, type Tensor } from '@tensorflow/tfjs-core';
import { EngineError } from '../errors.js';
import { philoxWords, type PhiloxKey } from '../random/philox.js';
import { registerPortableKernel, runKernel } from './kernel.js';
import { DROPOUT_ROUNDS, DROPOUT_SPAN as SPAN, dropoutInflation, dropoutThreshold } from './dropout-rate.js';

/** Kernel: no inputs, attrs DropoutMaskAttrs → float32 of `shape`. */
export const DropoutMask = 'TemperDropoutMask';
export interface DropoutMaskAttrs {
  shape: number[];
  rate: number;
  key: PhiloxKey;
}

/**
 * 0 with probability `rate` (in steps of 1/32768), else one over the probability of being kept; the same on every backend.
 * Every 64 elements draw from 16 words of the key's Philox stream (seven rounds): the first 32 from their halves, the low one of a
 * word first, the other 32 from the halves of the same words rotated to the left by a byte. An element is kept when its half's low
 * 15 bits reach `dropoutThreshold(rate)`. So each byte decides one draw and refines another: every draw's probability is exact, and
 * two draws that share a byte are correlated by less than 1/256.
 * @param rate in [0, 1)
 */
export function dropoutMask(shape: number[], rate: number, key: PhiloxKey): Tensor {
  if (!(rate >= 0 && rate < 1)) throw new EngineError('internal', 'bad_rate', `dropoutMask: rate: expected 0 ≤ rate < 1, got ${rate}`);
  return runKernel<Tensor>(DropoutMask, {}, { shape, rate, key } satisfies DropoutMaskAttrs);
}

registerPortableKernel<Record<string, never>, DropoutMaskAttrs>(DropoutMask, (_inputs, { shape, rate, key }) => {
  const keep = keeps(util.sizeFromShape(shape), rate, key), kept = dropoutInflation(rate);
  const mask = new Float32Array(keep.length);
  for (let i = 0; i < mask.length; i++) mask[i] = keep[i] * kept;
  return tensor(mask, shape);
});

/** Which elements the mask keeps: bool, made on the host. */
export const dropoutKeep = (shape: number[], rate: number, key: PhiloxKey): Tensor => tensor(keeps(util.sizeFromShape(shape), rate, key), shape, 'bool');

function keeps(size: number, rate: number, key: PhiloxKey): Uint8Array {
  const threshold = dropoutThreshold(rate), spans = Math.ceil(size / SPAN);
  const words = philoxWords(key, (spans * SPAN) / 4, 0, DROPOUT_ROUNDS);
  const keep = new Uint8Array(spans * SPAN);
  const reaches = (draw: number): number => (threshold - 1 - draw) >>> 31;
  for (let word = 0; word < words.length; word++) {
    const bits = words[word], rotated = (bits << 8) | (bits >>> 24);
    const at = (word >> 4) * SPAN + (word & 15) * 2;
    keep[at] = reaches(bits & 0x7fff);
    keep[at + 1] = reaches((bits >>> 16) & 0x7fff);
    keep[at + SPAN / 2] = reaches(rotated & 0x7fff);
    keep[at + SPAN / 2 + 1] = reaches((rotated >>> 16) & 0x7fff);
  }
  return keep.slice(0, size);
}
