import { extname } from 'node:path';
import { InvalidInputError } from '../../contracts/errors.js';
import type { DatasetConfig } from '../../contracts/fine-tune-config.js';
import { csvReader } from './csv.js';
import type { DatasetReader } from './dataset-file.js';
import { jsonReader } from './json.js';
import { jsonlReader } from './jsonl.js';
import { parquetReader } from './parquet.js';

export type DatasetFormat = NonNullable<DatasetConfig['format']>;

const readers: Readonly<Record<DatasetFormat, DatasetReader>> = { csv: csvReader, json: jsonReader, jsonl: jsonlReader, parquet: parquetReader };

/**
 * The reader that a dataset asks for: by its `format`, else by its URI's extension, else by the file's media type.
 * @throws InvalidInputError when none of them tells
 */
export function readerFor(dataset: Pick<DatasetConfig, 'uri' | 'format'>, mediaType?: string): DatasetReader {
  if (dataset.format !== undefined) return readers[dataset.format];
  const extension = extname(dataset.uri).toLowerCase();
  const known = Object.values(readers);
  const reader = known.find(({ extensions }) => extensions.includes(extension)) ?? known.find(({ mediaTypes }) => mediaType !== undefined && mediaTypes.includes(mediaType));
  if (reader) return reader;
  throw new InvalidInputError([{
    path: 'dataset.format',
    message: `expected one of ${Object.keys(readers).join(', ')}, as '${dataset.uri}' does not end in ${known.flatMap(({ extensions }) => extensions).join(', ')}; got none`,
  }]);
}
