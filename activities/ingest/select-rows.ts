import { InvalidInputError } from '../../contracts/errors.js';
import type { Problem } from '../../contracts/pipeline.js';
import type { IngestInput, RowReport } from '../../contracts/stages.js';
import { splitIndices, testCount } from '../../engine/data/splits.js';
import { DigestSet } from './digest-set.js';
import type { SpooledRows } from './row-spool.js';

/** What is kept, as row numbers in the spool, in the order in which it is written. */
export interface Selection {
  train: Uint32Array;
  test: Uint32Array;
  dropped: Omit<RowReport['dropped'], 'unsampled'>;
  kept: RowReport['kept'];
}

/**
 * Cleaning, split and leakage, on the index alone, each refused with its place in the configuration where it cannot be done.
 * @param sampled row numbers in the order of the sample
 * @param name what the user calls the data, for messages
 */
export function selectRows({ dataset, requiredColumns, questionColumns }: Pick<IngestInput, 'dataset' | 'requiredColumns'> & { questionColumns: readonly string[] }, spool: SpooledRows, sampled: Uint32Array, name: string): Selection {
  const { split, leakage, duplicates } = dataset;
  const { empty, identity, question } = spool.index;
  const filled = sampled.filter((row) => empty[row] === 0);
  const rows = duplicates === 'drop' ? distinct(filled) : filled;
  const dropped = { empty: sampled.length - filled.length, duplicate: filled.length - rows.length };
  if (rows.length === 0) {
    const got = `0 of the ${sampled.length} rows of ${name} (${dropped.empty} with an empty column and ${dropped.duplicate} duplicates were dropped)`;
    refuse([{ path: 'dataset.uri', message: `expected rows with text in ${requiredColumns.join(', ')}, got ${got}` }]);
  }

  refuse(splitProblems(split.test, rows.length));
  const parts = splitIndices(rows.length, testCount(rows.length, split.test), split.seed);
  const [train, test] = [parts.train, parts.test].map((indices) => indices.map((index) => rows[index]));

  const asked = new DigestSet(question, test.length);
  test.forEach((row) => asked.add(row));
  const clean = train.filter((row) => !asked.has(row));
  const leaked = train.length - clean.length;
  if (leaked > 0 && leakage === 'refuse') {
    const row = spool.row(train.find((candidate) => asked.has(candidate))!);
    const example = questionColumns.map((column) => `${column} ${JSON.stringify(row[column])}`).join(', ');
    refuse([{
      path: 'dataset.leakage',
      message: `expected no row of train with a question of test, got ${leaked} of ${train.length} (e.g. ${example}); 'drop' leaves them out of train`,
    }]);
  }
  const kept = leakage === 'keep' ? train : clean;
  if (kept.length === 0) {
    refuse([{ path: 'dataset.split.test', message: `expected a test split that leaves a row to train, got ${test.length} of ${rows.length} rows with the questions of all others` }]);
  }
  return { train: kept, test, dropped: { ...dropped, leaked: train.length - kept.length }, kept: { leaked: leakage === 'keep' ? leaked : 0 } };

  /** The first of equal rows. */
  function distinct(all: Uint32Array): Uint32Array {
    const seen = new DigestSet(identity, all.length);
    return all.filter((row) => seen.add(row));
  }
}

function splitProblems(test: number, rows: number): Problem[] {
  const path = 'dataset.split.test';
  if (test >= 1 && !Number.isInteger(test)) return [{ path, message: `expected a share below 1 or a whole number of rows, got ${test}` }];
  const count = testCount(rows, test);
  if (count >= 1 && count < rows) return [];
  return [{ path, message: `expected at least one row for test and one for train, got ${Math.min(count, rows)} for test and ${Math.max(rows - count, 0)} for train from ${rows} rows` }];
}

export function refuse(problems: readonly Problem[]): void {
  if (problems.length > 0) throw new InvalidInputError(problems);
}
