import { cast, mul, scalar, type Tensor } from '@tensorflow/tfjs-core';
import type { PhiloxKey } from '../random/philox.js';
import { native, philoxUniform } from './tensorflow-native.js';

/** The mask from TensorFlow's own generator: the same words as engine/random/philox.ts gives. */
export function dropoutMaskNative(shape: number[], rate: number, { seed, step, stream }: PhiloxKey): Tensor {
  const uniform = philoxUniform(shape, [seed, Math.floor(seed / 2 ** 32)], [0, 0, step, stream]);
  const keep = native('GreaterEqual', [uniform, scalar(rate)], { types: { T: 'float32' } });
  return mul(cast(keep, 'float32'), Math.fround(1 / (1 - rate)));
}
