import { cast, mul, scalar, type Tensor } from '@tensorflow/tfjs-core';
import type { PhiloxKey } from '../random/philox.js';
import { dropoutInflation, dropoutThreshold } from './dropout-rate.js';
import { native, philoxReaches } from './tensorflow-native.js';

/** Which elements are kept (bool), from TensorFlow's own generator: the same words as engine/random/philox.ts gives. */
export const dropoutKeepNative = (shape: number[], rate: number, { seed, step, stream }: PhiloxKey): Tensor =>
  philoxReaches(dropoutThreshold(rate), shape, [seed, Math.floor(seed / 2 ** 32)], [0, 0, step, stream]);

/** 0, or what dropout multiplies by. */
export const dropoutMaskNative = (shape: number[], rate: number, key: PhiloxKey): Tensor =>
  mul(cast(dropoutKeepNative(shape, rate, key), 'float32'), dropoutInflation(rate));

/** x where `keep`, else 0. */
export const selectNative = (keep: Tensor, x: Tensor): Tensor => native('SelectV2', [keep, x, scalar(0)], { types: { T: 'float32' } });
