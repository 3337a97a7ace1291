import { Mt19937 } from '../random/mt19937.js';
import { numpyPermutation } from '../random/numpy-permutation.js';
import { Pcg64 } from '../random/pcg64.js';
import type { Row } from './template.js';

/**
 * `count` of `rows` row numbers at random: those, and in the order, of pandas' `frame.sample(n=count, random_state=seed)`.
 * @param seed 0 … 2^32 - 1
 */
export const sampleIndices = (rows: number, count: number, seed: number): Uint32Array => numpyPermutation(new Mt19937(seed), rows).subarray(0, count);

/** Number of test rows: a share below 1 of the rows, rounded up as datasets does; or a number of rows. */
export const testCount = (rows: number, test: number): number => (test < 1 ? Math.ceil(rows * test) : test);

/** Holds `test` of `rows` row numbers out: the parts, and their order, of datasets' `train_test_split(test_size=test, seed=seed)`. */
export function splitIndices(rows: number, test: number, seed: number): { train: Uint32Array; test: Uint32Array } {
  const order = numpyPermutation(new Pcg64(seed), rows);
  return { train: order.subarray(test), test: order.subarray(0, test) };
}

/**
 * The question that a row asks: what the prompt shows of it, whatever the case, the width of characters and the blanks.
 *
 * A row of train with the question of a test row leaks, also with another answer: the model has seen the question that it is then
 * tested with.
 */
export const questionOf = (row: Row, columns: readonly string[]): string =>
  JSON.stringify(columns.map((column) => row[column].normalize('NFKC').toLowerCase().replace(/\s+/gu, ' ').trim()));
