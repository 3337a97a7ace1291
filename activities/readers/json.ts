import { badDataset, type DatasetFile, type DatasetReader, type SourceRow } from './dataset-file.js';
import { jsonObject, kindOf } from './json-object.js';
import { utf8Text } from './utf8.js';

/** An array of JSON objects. Read whole: for large data JSONL or Parquet are better. */
export const jsonReader: DatasetReader = {
  extensions: ['.json'],
  mediaTypes: ['application/json'],
  async columns(file) {
    const columns = new Set<string>();
    for await (const { values } of jsonReader.rows(file)) Object.keys(values).forEach((column) => columns.add(column));
    return [...columns];
  },
  async *rows(file): AsyncGenerator<SourceRow> {
    const value = await parseWhole(file);
    if (!Array.isArray(value)) throw badDataset(file, '', `expected an array of objects, got ${kindOf(value)}; one object a line is .jsonl`);
    for (let i = 0; i < value.length; i++) {
      const place = `item ${i + 1}`;
      yield { place, values: jsonObject(file, place, value[i]) };
    }
  },
};

async function parseWhole(file: DatasetFile): Promise<unknown> {
  const pieces: string[] = [];
  for await (const piece of utf8Text(file)) pieces.push(piece);
  const text = pieces.join('');
  try {
    return JSON.parse(text);
  } catch (error) {
    const { message } = error as Error;
    const position = /position (\d+)/.exec(message);
    const place = position ? `line ${text.slice(0, Number(position[1])).split('\n').length}` : '';
    throw badDataset(file, place, `expected JSON, got a mistake in it: ${message}`);
  }
}
