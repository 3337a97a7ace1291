import { cast, mul, scalar, type Tensor } from '@tensorflow/tfjs-core';
import type { PhiloxKey } from '../random/philox.js';
import { native, philoxUniform } from './tensorflow-native.js';

/** Which elements are kept (bool), from TensorFlow's own generator: the same words as engine/random/philox.ts gives. */
export function dropoutKeepNative(shape: number[], rate: number, { seed, step, stream }: PhiloxKey): Tensor {
  const uniform = philoxUniform(shape, [seed, Math.floor(seed / 2 ** 32)], [0, 0, step, stream]);
  return native('GreaterEqual', [uniform, scalar(rate)], { types: { T: 'float32' } });
}

/** 0 or 1 / (1 - rate). */
export const dropoutMaskNative = (shape: number[], rate: number, key: PhiloxKey): Tensor =>
  mul(cast(dropoutKeepNative(shape, rate, key), 'float32'), Math.fround(1 / (1 - rate)));

/** x where `keep`, else 0. */
export const selectNative = (keep: Tensor, x: Tensor): Tensor => native('SelectV2', [keep, x, scalar(0)], { types: { T: 'float32' } });
