import type { Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';
import type { PhiloxKey } from '../random/philox.js';
import { expectShape, shapeError } from './shape-error.js';

/** Dropout on the input of a LoRA branch. */
export interface DropoutOptions {
  /** Probability of a zero, in [0, 1). */
  rate: number;
  key: PhiloxKey;
}

/** A low-rank update of a frozen [out, in] matrix: W + scale · B·A (arXiv 2106.09685). */
export interface LoraBranch {
  /** [rank, in]. */
  a: Tensor2D;
  /** [out, rank]. */
  b: Tensor2D;
  /** alpha / rank, or alpha / √rank. */
  scale: number;
  dropout?: DropoutOptions;
  /** [out]: what the rows of the sum are brought to in length (DoRA); `adaptedLinear` alone does so. */
  magnitude?: Tensor1D;
  /** [rows of x, rank]: multiplied onto each row's low-rank coordinates, which lets rows have adapters of their own; `adaptedLinear` alone does so. */
  factors?: Tensor2D;
}

export function checkLora(op: string, { a, b, magnitude }: LoraBranch, [out, inner]: readonly [number, number]): void {
  expectShape(op, 'lora.a', a, ['rank', inner]);
  expectShape(op, 'lora.b', b, [out, 'rank']);
  if (magnitude) expectShape(op, 'lora.magnitude', magnitude, [out]);
  if (a.shape[0] !== b.shape[1]) throw shapeError(`${op}: lora.b: expected rank ${a.shape[0]} as in lora.a, got ${b.shape[1]}`);
}
