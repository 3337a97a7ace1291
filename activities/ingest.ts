import { createWriteStream } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ArtifactRef } from '../contracts/artifact.js';
import { InvalidInputError } from '../contracts/errors.js';
import type { Problem } from '../contracts/pipeline.js';
import { ingestInputSchema, ingestOutputSchema, type IngestInput, type IngestOutput, type RowReport } from '../contracts/stages.js';
import { histogram } from '../engine/data/histogram.js';
import { leakedRows, sampleIndices, splitIndices, testCount } from '../engine/data/splits.js';
import type { Row } from '../engine/data/template.js';
import { cellText } from './readers/cell-text.js';
import { mappingProblems, sourceColumn } from './readers/columns.js';
import { badDataset, type DatasetFile } from './readers/dataset-file.js';
import { readerFor } from './readers/index.js';
import { defineStage, type StageContext } from './stage.js';

const ROWS_PER_PROGRESS = 5_000;

/**
 * Turns a dataset file into immutable train and test snapshots that hold the columns the format names, as text.
 *
 * In this order: the sample is taken, rows with an empty column are dropped, then exact duplicates, the test split is held out,
 * and train is cleaned of (or refused for) questions that test asks too. Everything random is a pure function of the seeds; as the
 * sample comes first, it is the one that Python takes of the same file.
 */
export const ingestStage = defineStage<IngestInput, IngestOutput>({
  name: 'ingest',
  version: 2,
  input: ingestInputSchema,
  output: ingestOutputSchema,
  async run(input, context) {
    const file: DatasetFile = { path: await context.fetchDataset(input.file), name: input.dataset.uri.split(/[/:]/).at(-1)! };
    const rows = await readRows(input, file, context);
    const { train, test, dropped, kept } = selectRows(input, file, rows);
    const report: RowReport = {
      read: rows.length,
      dropped,
      kept,
      train: train.length,
      test: test.length,
      lengths: histogram([...train, ...test].map(characters)),
    };
    return {
      columns: input.requiredColumns,
      train: await storeRows(context, 'train.jsonl', train),
      test: await storeRows(context, 'test.jsonl', test),
      report,
    };
  },
});

/** Reads the file's rows, each with the required columns as text. */
async function readRows(input: IngestInput, file: DatasetFile, context: StageContext): Promise<Row[]> {
  const { dataset, requiredColumns } = input;
  const reader = readerFor(dataset, input.file.mediaType);
  const sources = requiredColumns.map((column) => sourceColumn(column, dataset.columns));
  const columnsFound = new Set<string>();

  const rows: Row[] = [];
  for await (const { place, values } of reader.rows(file, sources)) {
    if (rows.length % ROWS_PER_PROGRESS === ROWS_PER_PROGRESS - 1) {
      context.signal.throwIfAborted();
      context.progress('reading rows', rows.length, rows.length);
    }
    Object.keys(values).forEach((column) => columnsFound.add(column));
    const texts = sources.map((column) => {
      const text = cellText(Object.hasOwn(values, column) ? values[column] : undefined);
      if (text === undefined) throw badDataset(file, place, `column ${column}: expected text or numbers, got bytes`);
      return text;
    });
    rows.push(Object.fromEntries(requiredColumns.map((column, i) => [column, texts[i]])));
  }
  if (rows.length === 0) throw badDataset(file, '', 'expected at least one row, got none');
  if (!sources.every((column) => columnsFound.has(column))) {
    refuse(columnProblems(input, [...new Set([...(await reader.columns(file)), ...columnsFound])]));
  }
  return rows;
}

function columnProblems({ dataset, requiredColumns }: IngestInput, found: readonly string[]): Problem[] {
  const missing = requiredColumns
    .filter((column) => !Object.hasOwn(dataset.columns ?? {}, column) && !found.includes(column))
    .map((column) => ({ path: 'format', message: `{${column}}: expected a column of the dataset (${found.join(', ')}), got '${column}'` }));
  return [...mappingProblems(found, dataset.columns), ...missing];
}

/** Sample, cleaning, split and leakage, each refused with its place in the configuration where it cannot be done. */
function selectRows({ dataset, requiredColumns, promptColumns }: IngestInput, file: DatasetFile, all: readonly Row[]) {
  const { sample, split, leakage, duplicates } = dataset;
  refuse(sample && sample.rows > all.length ? [{ path: 'dataset.sample.rows', message: `expected at most the ${all.length} rows of ${file.name}, got ${sample.rows}` }] : []);
  const sampled = sample ? Array.from(sampleIndices(all.length, sample.rows, sample.seed), (index) => all[index]) : all;

  const filled = sampled.filter((row) => Object.values(row).every((text) => text.trim() !== ''));
  const rows = duplicates === 'drop' ? distinct(filled) : filled;
  const empty = sampled.length - filled.length, duplicate = filled.length - rows.length;
  if (rows.length === 0) {
    const dropped = `0 of the ${sampled.length} rows of ${file.name} (${empty} with an empty column and ${duplicate} duplicates were dropped)`;
    refuse([{ path: 'dataset.uri', message: `expected rows with text in ${requiredColumns.join(', ')}, got ${dropped}` }]);
  }

  refuse(splitProblems(split.test, rows.length));
  const parts = splitIndices(rows.length, testCount(rows.length, split.test), split.seed);
  const [train, test] = [parts.train, parts.test].map((indices) => Array.from(indices, (index) => rows[index]));

  // A prompt that shows no column asks every row the same: then rows are compared whole.
  const questionColumns = promptColumns.length > 0 ? promptColumns : requiredColumns;
  const leaked = leakedRows(train, test, questionColumns);
  const leakedCount = leaked.filter(Boolean).length;
  if (leakedCount > 0 && leakage === 'refuse') {
    const example = questionColumns.map((column) => `${column} ${JSON.stringify(train[leaked.indexOf(true)][column])}`).join(', ');
    refuse([{
      path: 'dataset.leakage',
      message: `expected no row of train with a question of test, got ${leakedCount} of ${train.length} (e.g. ${example}); 'drop' leaves them out of train`,
    }]);
  }
  const clean = leakage === 'keep' ? train : train.filter((_, i) => !leaked[i]);
  if (clean.length === 0) {
    refuse([{ path: 'dataset.split.test', message: `expected a test split that leaves a row to train, got ${test.length} of ${rows.length} rows with the questions of all others` }]);
  }
  return {
    train: clean, test,
    dropped: { unsampled: all.length - sampled.length, empty, duplicate, leaked: train.length - clean.length },
    kept: { leaked: leakage === 'keep' ? leakedCount : 0 },
  };
}

/** The first of equal rows. */
function distinct(rows: readonly Row[]): Row[] {
  const seen = new Set<string>();
  return rows.filter((row) => {
    const identity = JSON.stringify(Object.values(row));
    return !seen.has(identity) && seen.add(identity);
  });
}

function splitProblems(test: number, rows: number): Problem[] {
  const path = 'dataset.split.test';
  if (test >= 1 && !Number.isInteger(test)) return [{ path, message: `expected a share below 1 or a whole number of rows, got ${test}` }];
  const count = testCount(rows, test);
  if (count >= 1 && count < rows) return [];
  return [{ path, message: `expected at least one row for test and one for train, got ${Math.min(count, rows)} for test and ${Math.max(rows - count, 0)} for train from ${rows} rows` }];
}

function refuse(problems: readonly Problem[]): void {
  if (problems.length > 0) throw new InvalidInputError(problems);
}

const characters = (row: Row): number => Object.values(row).reduce((sum, text) => sum + text.length, 0);

async function storeRows(context: StageContext, name: string, rows: readonly Row[]): Promise<ArtifactRef> {
  const path = join(context.workDirectory, name);
  await pipeline(Readable.from(jsonLines(rows)), createWriteStream(path));
  return context.store.putFile(path, 'application/jsonl');
}

function* jsonLines(rows: readonly Row[]): Generator<string> {
  for (const row of rows) yield `${JSON.stringify(row)}\n`;
}
