import { badDataset, type DatasetReader } from './dataset-file.js';
import { jsonObject } from './json-object.js';
import { utf8Lines } from './utf8.js';

/** Objects whose keys make up the columns of a file without a header. */
const HEADER_ROWS = 100;

/** One JSON object a line; blank lines are skipped. */
export const jsonlReader: DatasetReader = {
  extensions: ['.jsonl', '.ndjson'],
  mediaTypes: ['application/jsonl', 'application/x-ndjson'],
  async columns(file) {
    const columns = new Set<string>();
    let rows = 0;
    for await (const { values } of jsonlReader.rows(file)) {
      Object.keys(values).forEach((column) => columns.add(column));
      if (++rows === HEADER_ROWS) break;
    }
    return [...columns];
  },
  async *rows(file) {
    for await (const { number, text } of utf8Lines(file)) {
      if (text.trim() === '') continue;
      const place = `line ${number}`;
      let value: unknown;
      try {
        value = JSON.parse(text);
      } catch (error) {
        throw badDataset(file, place, `expected a JSON object, got a mistake in it: ${(error as Error).message}`);
      }
      yield { place, values: jsonObject(file, place, value) };
    }
  },
};
