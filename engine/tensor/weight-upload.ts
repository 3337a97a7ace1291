import { getBackend } from '@tensorflow/tfjs-core';
import type { BaseDtype } from './frozen-weight.js';
import type { FrozenWeight } from './weight-types.js';

/** A tensor's values as they lie in a file, little-endian and row-major. */
export interface StoredValues {
  dtype: 'f32' | 'f16' | 'bf16';
  count: number;
  /** Reads bytes from the tensor's byte `position` on. May be called again before an earlier call has ended. */
  fill(target: Uint8Array, position: number): Promise<void>;
  /** What to throw when a value is not finite. */
  notFinite(value: number, index: number): Error;
}

/** Puts matrices on the device as a file has them, and stores them there the way a base says: the same bits as `freezeWeight`. */
export interface WeightUploader {
  /** Several may be under way at once. */
  freeze(values: StoredValues, shape: [number, number], base: BaseDtype): Promise<FrozenWeight>;
  /** Throws when one of the matrices had a value that is not finite. */
  check(): void;
  dispose(): void;
}

const makers = new Map<string, () => WeightUploader>();

/** For a backend that quantises by itself. */
export function registerWeightUploader(backend: string, make: () => WeightUploader): void {
  makers.set(backend, make);
}

/** The current backend's; undefined where it has none. */
export const weightUploader = (): WeightUploader | undefined => makers.get(getBackend())?.();
