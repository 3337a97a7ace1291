import { InvalidInputError } from '../../contracts/errors.js';

/** A dataset file on this machine. */
export interface DatasetFile {
  path: string;
  /** What the user calls it: the last part of its URI. Its extension tells how it is compressed. */
  name: string;
}

/** One record as its file has it. */
export interface SourceRow {
  /** Where it is, e.g. `line 12`. */
  place: string;
  values: Readonly<Record<string, unknown>>;
}

/** Reads one file format. */
export interface DatasetReader {
  /** With the dot, lower case. */
  extensions: readonly string[];
  mediaTypes: readonly string[];
  /** The columns, without reading the whole file. Formats without a header give those of the first rows. */
  columns(file: DatasetFile): Promise<string[]>;
  /** The records in order. `wanted` tells which columns are needed; others may be left out. */
  rows(file: DatasetFile, wanted?: readonly string[]): AsyncIterable<SourceRow>;
}

/** A file that cannot be read as what it should be, e.g. "products.csv line 3: expected 4 columns, got 5". */
export const badDataset = (file: DatasetFile, place: string, message: string): InvalidInputError =>
  new InvalidInputError([{ path: 'dataset.uri', message: `${file.name}${place === '' ? '' : ` ${place}`}: ${message}` }]);
