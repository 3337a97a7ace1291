import { Readable } from 'node:stream';
import { CsvError, parse } from 'csv-parse';
import { badDataset, type DatasetFile, type DatasetReader } from './dataset-file.js';
import { utf8Text } from './utf8.js';

interface CsvRecord {
  record: string[];
  /** `lines` is the line that the record ends on. */
  info: { lines: number };
}

/** RFC 4180 with a header line: quotes, CRLF, a byte order mark; empty lines are skipped. */
export const csvReader: DatasetReader = {
  extensions: ['.csv'],
  mediaTypes: ['text/csv'],
  async columns(file) {
    for await (const { record } of records(file)) return header(file, record);
    throw badDataset(file, 'line 1', 'expected a header with the column names, got an empty file');
  },
  async *rows(file) {
    let names: string[] | undefined;
    for await (const { record, info } of records(file)) {
      if (names === undefined) {
        names = header(file, record);
        continue;
      }
      if (record.length !== names.length) {
        throw badDataset(file, `line ${info.lines}`, `expected ${names.length} columns (${names.join(', ')}), got ${record.length}; is a quote or a comma unescaped?`);
      }
      yield { place: `line ${info.lines}`, values: Object.fromEntries(names.map((name, i) => [name, record[i]])) };
    }
    if (names === undefined) throw badDataset(file, 'line 1', 'expected a header with the column names, got an empty file');
  },
};

function header(file: DatasetFile, names: string[]): string[] {
  names.forEach((name, i) => {
    if (name.trim() === '') throw badDataset(file, 'line 1', `expected a name for column ${i + 1}, got none`);
    if (names.indexOf(name) !== i) throw badDataset(file, 'line 1', `expected every column once, got '${name}' twice`);
  });
  return names;
}

async function* records(file: DatasetFile): AsyncGenerator<CsvRecord> {
  const source = Readable.from(utf8Text(file));
  const parser = parse({ info: true, relaxColumnCount: true, skipEmptyLines: true });
  source.on('error', (error) => parser.destroy(error));
  source.pipe(parser);
  try {
    for await (const record of parser as AsyncIterable<CsvRecord>) yield record;
  } catch (error) {
    if (!(error instanceof CsvError)) throw error;
    throw badDataset(file, `line ${String(error.lines)}`, `expected CSV, got a mistake in it: ${error.message}`);
  } finally {
    source.destroy();
    parser.destroy();
  }
}
