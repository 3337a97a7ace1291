import { createWriteStream } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ArtifactRef } from '../contracts/artifact.js';
import { InvalidInputError } from '../contracts/errors.js';
import type { Problem } from '../contracts/pipeline.js';
import { ingestInputSchema, ingestOutputSchema, type IngestInput, type IngestOutput, type RowReport } from '../contracts/stages.js';
import { histogram } from '../engine/data/histogram.js';
import { leakedRows, sampleRows, splitRows, testCount } from '../engine/data/splits.js';
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
 * In this order: rows with an empty column are dropped, then exact duplicates, then the sample is taken, the test split held
 * out, and train is cleaned of (or refused for) questions that test asks too. Everything random is a pure function of the seeds.
 */
export const ingestStage = defineStage<IngestInput, IngestOutput>({
  name: 'ingest',
  version: 1,
  input: ingestInputSchema,
  output: ingestOutputSchema,
  async run(input, context) {
    const file: DatasetFile = { path: await context.fetchDataset(input.file), name: input.dataset.uri.split(/[/:]/).at(-1)! };
    const { rows, ...counts } = await readRows(input, file, context);
    const { train, test, dropped } = selectRows(input, file, rows, counts);
    const report: RowReport = {
      read: counts.read,
      dropped: { empty: counts.empty, duplicate: counts.duplicate, ...dropped },
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

interface ReadCounts {
  read: number;
  empty: number;
  duplicate: number;
}

/** Reads the file into rows of the required columns, without the empty and the duplicate ones. */
async function readRows(input: IngestInput, file: DatasetFile, context: StageContext): Promise<ReadCounts & { rows: Row[] }> {
  const { dataset, requiredColumns } = input;
  const reader = readerFor(dataset, input.file.mediaType);
  const sources = requiredColumns.map((column) => sourceColumn(column, dataset.columns));
  const columnsFound = new Set<string>();

  const rows: Row[] = [];
  const seen = new Set<string>();
  const counts = { read: 0, empty: 0, duplicate: 0 };
  for await (const { place, values } of reader.rows(file, sources)) {
    counts.read++;
    if (counts.read % ROWS_PER_PROGRESS === 0) {
      context.signal.throwIfAborted();
      context.progress('reading rows', counts.read, counts.read);
    }
    Object.keys(values).forEach((column) => columnsFound.add(column));
    const texts = sources.map((column) => {
      const text = cellText(Object.hasOwn(values, column) ? values[column] : undefined);
      if (text === undefined) throw badDataset(file, place, `column ${column}: expected text or numbers, got bytes`);
      return text;
    });
    const identity = JSON.stringify(texts);
    if (texts.some((text) => text.trim() === '')) counts.empty++;
    else if (seen.has(identity)) counts.duplicate++;
    else {
      seen.add(identity);
      rows.push(Object.fromEntries(requiredColumns.map((column, i) => [column, texts[i]])));
    }
  }
  if (counts.read === 0) throw badDataset(file, '', 'expected at least one row, got none');
  if (!sources.every((column) => columnsFound.has(column))) {
    refuse(columnProblems(input, [...new Set([...(await reader.columns(file)), ...columnsFound])]));
  }
  return { rows, ...counts };
}

function columnProblems({ dataset, requiredColumns }: IngestInput, found: readonly string[]): Problem[] {
  const missing = requiredColumns
    .filter((column) => !Object.hasOwn(dataset.columns ?? {}, column) && !found.includes(column))
    .map((column) => ({ path: 'format', message: `{${column}}: expected a column of the dataset (${found.join(', ')}), got '${column}'` }));
  return [...mappingProblems(found, dataset.columns), ...missing];
}

/** Sample, split and leakage, each refused with its place in the configuration where it cannot be done. */
function selectRows(input: IngestInput, file: DatasetFile, rows: Row[], { read, empty, duplicate }: ReadCounts) {
  const { sample, split, leakage } = input.dataset;
  const left = `${rows.length} of the ${read} rows of ${file.name} (${empty} with an empty column and ${duplicate} duplicates were dropped)`;
  if (rows.length === 0) refuse([{ path: 'dataset.uri', message: `expected rows with text in ${input.requiredColumns.join(', ')}, got ${left}` }]);
  refuse(sample && sample.rows > rows.length ? [{ path: 'dataset.sample.rows', message: `expected at most ${left}, got ${sample.rows}` }] : []);

  const sampled = sample ? sampleRows(rows, sample.rows, sample.seed) : rows;
  refuse(splitProblems(split.test, sampled.length));
  const { train, test } = splitRows(sampled, testCount(sampled.length, split.test), split.seed);

  // A prompt that shows no column asks every row the same: then rows are compared whole.
  const questionColumns = input.promptColumns.length > 0 ? input.promptColumns : input.requiredColumns;
  const leaked = leakedRows(train, test, questionColumns);
  const kept = train.filter((_, i) => !leaked[i]);
  const leakedCount = train.length - kept.length;
  if (leakedCount > 0 && leakage === 'refuse') {
    const example = questionColumns.map((column) => `${column} ${JSON.stringify(train[leaked.indexOf(true)][column])}`).join(', ');
    refuse([{
      path: 'dataset.leakage',
      message: `expected no row of train with a question of test, got ${leakedCount} of ${train.length} (e.g. ${example}); 'drop' leaves them out of train`,
    }]);
  }
  if (kept.length === 0) {
    refuse([{ path: 'dataset.split.test', message: `expected a test split that leaves a row to train, got ${test.length} of ${sampled.length} rows with the questions of all others` }]);
  }
  return { train: kept, test, dropped: { unsampled: rows.length - sampled.length, leaked: leakedCount } };
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
