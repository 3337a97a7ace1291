import { FormatError } from './format-error.js';

/** Throws `nan_weights`, naming the tensor and the place, unless every value is a finite number. */
export function requireFinite(values: Float32Array, path: string, name: string): void {
  let sum = 0;
  // x - x is 0 for a finite x and NaN otherwise: one pass without a branch.
  for (let i = 0; i < values.length; i++) sum += values[i] - values[i];
  if (sum === 0) return;
  const index = values.findIndex((value) => !Number.isFinite(value));
  throw notFinite(path, name, values[index], index);
}

/** What is thrown for a value that is not finite. */
export const notFinite = (path: string, name: string, value: number, index: number): FormatError =>
  new FormatError('nan_weights', path, `tensor ${name}: expected finite values, got ${value} at index ${index}`);
