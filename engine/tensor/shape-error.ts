import type { Tensor } from '@tensorflow/tfjs-core';
import { EngineError } from '../errors.js';

/** A caller's mistake in an op's operands; `message` reads "op: subject: expected X, got Y". */
export const shapeError = (message: string): EngineError => new EngineError('internal', 'bad_shape', message);

/** `[2,3]` for messages. */
export const shapeText = (tensor: { shape: readonly number[] }): string => `[${tensor.shape.join(',')}]`;

export function expectShape(op: string, name: string, tensor: Tensor, expected: readonly (number | string)[]): void {
  const fits =
    tensor.shape.length === expected.length && expected.every((size, i) => typeof size === 'string' || size === tensor.shape[i]);
  if (!fits) throw shapeError(`${op}: ${name}: expected shape [${expected.join(',')}], got ${shapeText(tensor)}`);
}
