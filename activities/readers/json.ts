import { badDataset, type DatasetFile, type DatasetReader, type SourceRow } from './dataset-file.js';
import { JsonArrayError, JsonArraySplitter, type JsonItem } from './json-array.js';
import { jsonObject, kindOf } from './json-object.js';
import { utf8Text } from './utf8.js';

/** Objects whose keys make up the columns of a file without a header. */
const HEADER_ROWS = 100;
/** As much of a file is looked at to say what it is instead of an array. */
const lookedAt = 65_536;

/** An array of JSON objects, read one by one. */
export const jsonReader: DatasetReader = {
  extensions: ['.json'],
  mediaTypes: ['application/json'],
  async columns(file) {
    const columns = new Set<string>();
    let rows = 0;
    for await (const { values } of jsonReader.rows(file)) {
      Object.keys(values).forEach((column) => columns.add(column));
      if (++rows === HEADER_ROWS) break;
    }
    return [...columns];
  },
  async *rows(file): AsyncGenerator<SourceRow> {
    let number = 0;
    for await (const item of items(file)) {
      const place = `item ${++number}`;
      yield { place, values: jsonObject(file, place, parseItem(file, item)) };
    }
  },
};

async function* items(file: DatasetFile): AsyncGenerator<JsonItem> {
  const splitter = new JsonArraySplitter();
  try {
    for await (const piece of utf8Text(file)) yield* splitter.push(piece);
    splitter.end();
  } catch (error) {
    if (!(error instanceof JsonArrayError)) throw error;
    if (error.line === 0) throw badDataset(file, '', `expected an array of objects, got ${await kindOfFile(file)}`);
    throw badDataset(file, `line ${error.line}`, `expected ${error.message}`);
  }
}

function parseItem(file: DatasetFile, { text, line }: JsonItem): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const { message } = error as Error;
    const position = /position (\d+)/.exec(message);
    const lines = position ? text.slice(0, Number(position[1])).split('\n').length - 1 : 0;
    throw badDataset(file, `line ${line + lines}`, `expected JSON, got a mistake in it: ${message}`);
  }
}

async function kindOfFile(file: DatasetFile): Promise<string> {
  let text = '';
  for await (const piece of utf8Text(file)) if ((text += piece).length > lookedAt) break;
  const [first] = text.trim();
  if (first === '{') return `${kindOf({})}; one object a line is .jsonl`;
  try {
    return kindOf(JSON.parse(text));
  } catch {
    return `something that begins with ${JSON.stringify(first)}`;
  }
}
