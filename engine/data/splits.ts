import { permutation } from '../random/shuffle.js';
import type { Row } from './template.js';

/** Set sampling and splitting apart from each other for the same seed. */
const SAMPLE_STREAM = 0x73616d70;
const SPLIT_STREAM = 0x73706c74;

/** `count` rows at random, in their old order; all of them when there are fewer. A pure function of the rows' number and the seed. */
export function sampleRows<T>(rows: readonly T[], count: number, seed: number): T[] {
  return choose(rows.length, count, seed, SAMPLE_STREAM).map((index) => rows[index]);
}

/** Number of test rows: a share below 1 of the rows, rounded; or a number of rows. */
export const testCount = (rows: number, test: number): number => (test < 1 ? Math.round(rows * test) : test);

/** Holds `count` rows out at random. Both parts keep the rows' order. A pure function of the rows' number and the seed. */
export function splitRows<T>(rows: readonly T[], count: number, seed: number): { train: T[]; test: T[] } {
  const held = new Set(choose(rows.length, count, seed, SPLIT_STREAM));
  return { train: rows.filter((_, i) => !held.has(i)), test: rows.filter((_, i) => held.has(i)) };
}

/**
 * Rows of train whose question is also asked in test, one boolean a row.
 *
 * The question is what the prompt shows of a row: equal `columns`, whatever the case, the width of characters and the blanks.
 * Another answer to the same question leaks as well: the model has seen the question that it is then tested with.
 */
export function leakedRows(train: readonly Row[], test: readonly Row[], columns: readonly string[]): boolean[] {
  const question = (row: Row) => JSON.stringify(columns.map((column) => row[column].normalize('NFKC').toLowerCase().replace(/\s+/gu, ' ').trim()));
  const asked = new Set(test.map(question));
  return train.map((row) => asked.has(question(row)));
}

const choose = (length: number, count: number, seed: number, stream: number): number[] =>
  Array.from(permutation(length, { seed, step: 0, stream }).subarray(0, count)).sort((a, b) => a - b);
