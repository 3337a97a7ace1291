import { createWriteStream } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ArtifactRef } from '../contracts/artifact.js';
import type { Problem } from '../contracts/pipeline.js';
import { ingestInputSchema, ingestOutputSchema, type IngestInput, type IngestOutput } from '../contracts/stages.js';
import { histogram } from '../engine/data/histogram.js';
import { sampleIndices } from '../engine/data/splits.js';
import type { Row } from '../engine/data/template.js';
import { RowSpool, type SpooledRows } from './ingest/row-spool.js';
import { refuse, selectRows, type Selection } from './ingest/select-rows.js';
import { cellText } from './readers/cell-text.js';
import { mappingProblems, sourceColumn } from './readers/columns.js';
import { badDataset, type DatasetFile } from './readers/dataset-file.js';
import { readerFor } from './readers/index.js';
import { defineStage, type StageContext } from './stage.js';

const ROWS_PER_PROGRESS = 5_000;

/**
 * Turns a dataset's files into immutable train and test snapshots that hold the columns the format names, as text.
 *
 * In this order: the sample is taken, rows with an empty column are dropped, then exact duplicates, the test split is held out,
 * and train is cleaned of (or refused for) questions that test asks too. Everything random is a pure function of the seeds; as the
 * sample comes first, it is the one that Python takes of the same files.
 *
 * Rows stay on disk: they are read once (twice for a sample, whose rows are known only when all have been counted) into a spool
 * in the work directory, all is decided on an index of digests, and what is kept is copied from there.
 */
export const ingestStage = defineStage<IngestInput, IngestOutput>({
  name: 'ingest',
  version: 2,
  input: ingestInputSchema,
  output: ingestOutputSchema,
  async run(input, context) {
    const source = await openSource(input, context);
    const { sample } = input.dataset;
    const { spool, read, sampled } = await (sample ? spoolSample(source, sample) : spoolAll(source));
    try {
      const selection = selectRows(source, spool, sampled, source.name);
      return {
        columns: input.requiredColumns,
        train: await storeRows(context, 'train.jsonl', spool, selection.train),
        test: await storeRows(context, 'test.jsonl', spool, selection.test),
        report: {
          read,
          dropped: { ...selection.dropped, unsampled: read - sampled.length },
          kept: selection.kept,
          train: selection.train.length,
          test: selection.test.length,
          lengths: histogram(charactersOf(spool, selection)),
        },
      };
    } finally {
      await spool.close();
    }
  },
});

interface Source extends IngestInput {
  context: StageContext;
  files: (DatasetFile & { mediaType: string })[];
  /** What the user calls the data, for messages. */
  name: string;
  questionColumns: readonly string[];
}

async function openSource(input: IngestInput, context: StageContext): Promise<Source> {
  const files: Source['files'] = [];
  for (const ref of [input.file].flat()) {
    files.push({ path: await context.fetchDataset(ref), name: decodeURIComponent(ref.uri.split(/[/:]/).at(-1)!), mediaType: ref.mediaType });
  }
  return {
    ...input, context, files,
    name: files.length === 1 ? files[0].name : `${files.length} files`,
    // A prompt that shows no column asks every row the same: then rows are compared whole.
    questionColumns: input.promptColumns.length > 0 ? input.promptColumns : input.requiredColumns,
  };
}

interface Spooled {
  spool: SpooledRows;
  /** Rows of the files. */
  read: number;
  /** Numbers of the rows in the spool, in the order of the sample. */
  sampled: Uint32Array;
}

async function spoolAll(source: Source): Promise<Spooled> {
  const spool = await spoolRows(source, () => true);
  return { spool, read: spool.index.rows, sampled: Uint32Array.from({ length: spool.index.rows }, (_, i) => i) };
}

async function spoolSample(source: Source, { rows, seed }: { rows: number; seed: number }): Promise<Spooled> {
  let read = 0;
  for await (const row of readRows(source, 'counting rows')) if (row) read++;
  refuse(rows > read ? [{ path: 'dataset.sample.rows', message: `expected at most the ${read} rows of ${source.name}, got ${rows}` }] : []);

  const order = sampleIndices(read, rows, seed).slice();
  const inFile = order.slice().sort();
  let next = 0;
  const spool = await spoolRows(source, (number) => number === inFile[next] && ++next > 0);
  return { spool, read, sampled: order.map((number) => positionIn(inFile, number)) };
}

/** Where a value is in an ascending array that has it. */
function positionIn(ascending: Uint32Array, value: number): number {
  let low = 0;
  for (let high = ascending.length - 1; low < high; ) {
    const middle = (low + high) >>> 1;
    if (ascending[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

async function spoolRows(source: Source, isWanted: (number: number) => boolean): Promise<SpooledRows> {
  const spool = RowSpool.create(join(source.context.workDirectory, 'rows.jsonl'), source.questionColumns);
  let number = 0;
  for await (const row of readRows(source, 'reading rows')) if (isWanted(number++)) await spool.append(row);
  return spool.finish();
}

/** The files' rows, each with the required columns as text. */
async function* readRows(source: Source, phase: string): AsyncGenerator<Row> {
  const { dataset, requiredColumns, files, context } = source;
  const columns = requiredColumns.map((column) => sourceColumn(column, dataset.columns));
  let read = 0;
  for (const file of files) {
    const reader = readerFor(dataset, file.name, file.mediaType);
    const found = new Set<string>();
    const before = read;
    for await (const { place, values } of reader.rows(file, columns)) {
      if (++read % ROWS_PER_PROGRESS === 0) {
        context.signal.throwIfAborted();
        context.progress(phase, read, read);
      }
      const texts = columns.map((column) => {
        const has = Object.hasOwn(values, column);
        if (has) found.add(column);
        const text = cellText(has ? values[column] : undefined);
        if (text === undefined) throw badDataset(file, place, `column ${column}: expected text or numbers, got bytes`);
        return text;
      });
      yield Object.fromEntries(requiredColumns.map((column, i) => [column, texts[i]]));
    }
    if (read > before && columns.some((column) => !found.has(column))) {
      refuse(columnProblems(source, [...new Set([...(await reader.columns(file)), ...found])], files.length === 1 ? '' : `${file.name}: `));
    }
  }
  if (read === 0) throw badDataset(files[0], '', 'expected at least one row, got none');
}

function columnProblems({ dataset, requiredColumns }: IngestInput, found: readonly string[], where: string): Problem[] {
  const missing = requiredColumns
    .filter((column) => !Object.hasOwn(dataset.columns ?? {}, column) && !found.includes(column))
    .map((column) => ({ path: 'format', message: `${where}{${column}}: expected a column of the dataset (${found.join(', ')}), got '${column}'` }));
  return [...mappingProblems(found, dataset.columns).map(({ path, message }) => ({ path, message: where + message })), ...missing];
}

function charactersOf({ index: { characters } }: SpooledRows, { train, test }: Selection): Uint32Array {
  const counts = new Uint32Array(train.length + test.length);
  counts.set(train.map((row) => characters[row]));
  counts.set(test.map((row) => characters[row]), train.length);
  return counts;
}

async function storeRows(context: StageContext, name: string, spool: SpooledRows, rows: Uint32Array): Promise<ArtifactRef> {
  const path = join(context.workDirectory, name);
  await pipeline(Readable.from(spool.lines(rows)), createWriteStream(path));
  return context.store.putFile(path, 'application/jsonl');
}
