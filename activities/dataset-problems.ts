import { stat } from 'node:fs/promises';
import type { FineTuneConfig } from '../contracts/fine-tune-config.js';
import type { Problem } from '../contracts/pipeline.js';
import { testCount } from '../engine/data/splits.js';
import { templateProblems } from '../engine/data/template.js';
import type { Tokenizer } from '../engine/formats/tokenizer.js';
import { mappingProblems, runColumns } from './readers/columns.js';
import type { DatasetFile } from './readers/dataset-file.js';
import { readerFor } from './readers/index.js';

/** Files up to this size are counted, larger ones only looked into. */
const countedBytes = 32 << 20;

/**
 * All that is wrong between a dataset, its mapping and the templates. Looks at the header and, in small files, counts the rows.
 * @throws InvalidInputError for a file that is not of its format
 */
export async function datasetProblems(
  { dataset, format }: FineTuneConfig, file: DatasetFile, mediaType: string, tokenizer?: Pick<Tokenizer, 'chatTemplate'>,
): Promise<Problem[]> {
  const reader = readerFor(dataset, mediaType);
  const { size } = await stat(file.path);
  if (size === 0) return [{ path: 'dataset.uri', message: `${file.name}: expected at least one row, got an empty file` }];
  const most = size <= countedBytes ? Infinity : 1;
  const columns = await reader.columns(file);
  let rows = 0;
  for await (const { place } of reader.rows(file, columns.slice(0, 1))) if (place && ++rows >= most) break;
  if (rows === 0) return [{ path: 'dataset.uri', message: `${file.name}: expected at least one row, got none` }];

  return [
    ...mappingProblems(columns, dataset.columns),
    ...templateProblems(format, runColumns(columns, dataset.columns), tokenizer),
    ...(most === Infinity ? splitProblems(dataset, rows) : []),
  ];
}

/** `rows` is what the file has; what is dropped of them later makes it harder, never easier. */
function splitProblems({ split, sample }: FineTuneConfig['dataset'], rows: number): Problem[] {
  if (sample && sample.rows > rows) return [{ path: 'dataset.sample.rows', message: `expected at most the ${rows} rows of the dataset, got ${sample.rows}` }];
  const used = sample?.rows ?? rows;
  const test = testCount(used, split.test);
  const path = 'dataset.split.test';
  if (test >= used) return [{ path, message: `expected to leave at least one of ${used} rows to train on, got ${split.test}, which takes ${test}` }];
  return [];
}
