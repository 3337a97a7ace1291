import { InvalidInputError } from '../../contracts/errors.js';
import type { DatasetConfig } from '../../contracts/fine-tune-config.js';
import { csvReader } from './csv.js';
import { dataExtension } from './data-extension.js';
import type { DatasetReader } from './dataset-file.js';
import { jsonReader } from './json.js';
import { jsonlReader } from './jsonl.js';
import { parquetReader } from './parquet.js';

export type DatasetFormat = NonNullable<DatasetConfig['format']>;

const readers: Readonly<Record<DatasetFormat, DatasetReader>> = { csv: csvReader, json: jsonReader, jsonl: jsonlReader, parquet: parquetReader };

const all = Object.values(readers);

/** Extensions of what is read, without those of compression. */
export const readableExtensions: readonly string[] = all.flatMap(({ extensions }) => extensions);

/**
 * The reader for a file: by the configured format, else by the file's extension, else by its media type.
 * @throws InvalidInputError when none of them tells
 */
export function readerFor({ format }: Pick<DatasetConfig, 'format'>, name: string, mediaType: string): DatasetReader {
  const extension = dataExtension(name);
  const reader = format === undefined
    ? (all.find(({ extensions }) => extensions.includes(extension)) ?? all.find(({ mediaTypes }) => mediaTypes.includes(mediaType)))
    : readers[format];
  if (!reader) {
    throw new InvalidInputError([{
      path: 'dataset.format',
      message: `expected one of ${Object.keys(readers).join(', ')}, as '${name}' does not end in ${readableExtensions.join(', ')}; got none`,
    }]);
  }
  return reader;
}
