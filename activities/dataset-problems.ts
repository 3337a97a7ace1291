import { extname } from 'node:path';
import type { FineTuneConfig } from '../contracts/fine-tune-config.js';
import type { Problem } from '../contracts/pipeline.js';
import { testCount } from '../engine/data/splits.js';
import { templateProblems } from '../engine/data/template.js';
import type { Tokenizer } from '../engine/formats/tokenizer.js';
import { mappingProblems, runColumns } from './readers/columns.js';
import { readerFor } from './readers/index.js';
import type { LocalDataset } from './sources/datasets.js';

/** Files up to this size together are counted, larger ones only looked into. Compressed ones count more, as they take longer. */
const countedBytes = 32 << 20;
const weights: Readonly<Record<string, number>> = { '.gz': 4, '.zst': 8, '.bz2': 32 };

/**
 * All that is wrong between a dataset's files, its mapping and the templates. Looks at each file's header and, where they are small,
 * counts the rows.
 * @throws InvalidInputError for a file that is not of its format
 */
export async function datasetProblems(
  { dataset, format }: FineTuneConfig, files: readonly LocalDataset[], tokenizer?: Pick<Tokenizer, 'chatTemplate'>,
): Promise<Problem[]> {
  const sizes = files.map(({ name, ref }) => ref.bytes * (weights[extname(name).toLowerCase()] ?? 1));
  const most = sizes.reduce((sum, bytes) => sum + bytes, 0) <= countedBytes ? Infinity : 1;
  const columns: string[][] = [];
  let rows = 0;
  for (const file of files) {
    const reader = readerFor(dataset, file.name, file.ref.mediaType);
    if (file.ref.bytes === 0) return [{ path: 'dataset.uri', message: `${file.name}: expected at least one row, got an empty file` }];
    const found = await reader.columns(file);
    columns.push(found);
    let inFile = 0;
    for await (const { place } of reader.rows(file, found.slice(0, 1))) if (place && ++inFile >= most) break;
    if (inFile === 0) return [{ path: 'dataset.uri', message: `${file.name}: expected at least one row, got none` }];
    rows += inFile;
  }

  const [first, ...rest] = columns.map((found) => [
    ...mappingProblems(found, dataset.columns),
    ...templateProblems(format, runColumns(found, dataset.columns), tokenizer),
  ]);
  // A file that lacks what the first one has is told by its name; what is wrong with all of them is told once.
  const others = rest.flatMap((problems, i) => problems
    .filter(({ path, message }) => !first.some((known) => known.path === path && known.message === message))
    .map(({ path, message }) => ({ path, message: `${files[i + 1].name}: ${message}` })));
  return [...first, ...others, ...(most === Infinity ? splitProblems(dataset, rows) : [])];
}

/** `rows` is what the files have; what is dropped of them later makes it harder, never easier. */
function splitProblems({ split, sample }: FineTuneConfig['dataset'], rows: number): Problem[] {
  if (sample && sample.rows > rows) return [{ path: 'dataset.sample.rows', message: `expected at most the ${rows} rows of the dataset, got ${sample.rows}` }];
  const used = sample?.rows ?? rows;
  const test = testCount(used, split.test);
  const path = 'dataset.split.test';
  if (test >= used) return [{ path, message: `expected to leave at least one of ${used} rows to train on, got ${split.test}, which takes ${test}` }];
  return [];
}
