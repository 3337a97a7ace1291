import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parquetWriteBuffer } from 'hyparquet-writer';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cellText } from '../../activities/readers/cell-text.js';
import { mappingProblems, runColumns } from '../../activities/readers/columns.js';
import type { SourceRow } from '../../activities/readers/dataset-file.js';
import { readerFor, type DatasetFormat } from '../../activities/readers/index.js';
import { goldenPath } from '../kit/golden.js';

let directory: string;
beforeAll(async () => void (directory = await mkdtemp(join(tmpdir(), 'readers-'))));
afterAll(() => rm(directory, { recursive: true }));

async function read(format: DatasetFormat, content: string | Uint8Array, wanted?: string[]): Promise<{ columns: string[]; rows: SourceRow[] }> {
  const file = { path: join(directory, 'data'), name: `data.${format}` };
  await writeFile(file.path, content);
  const reader = readerFor({ format }, 'x', '');
  const rows: SourceRow[] = [];
  for await (const row of reader.rows(file, wanted)) rows.push(row);
  return { columns: await reader.columns(file), rows };
}

describe('CSV', () => {
  it('reads quotes, line breaks in cells, CRLF, a byte order mark and empty lines', async () => {
    expect(await read('csv', '\ufeffproduct,description\r\n"Mouse, red","He said ""click"".\nTwice."\r\n\r\nLamp,\r\n')).toEqual({
      columns: ['product', 'description'],
      rows: [
        { place: 'line 3', values: { product: 'Mouse, red', description: 'He said "click".\nTwice.' } },
        { place: 'line 5', values: { product: 'Lamp', description: '' } },
      ],
    });
  });

  it('reads a file larger than one piece of its stream, characters across pieces whole', async () => {
    const { rows } = await read('csv', `a\n${'é'.repeat(70_001)}\nx${'é'.repeat(70_001)}\n`);
    expect(rows.map(({ values }) => values.a)).toEqual(['é'.repeat(70_001), `x${'é'.repeat(70_001)}`]);
  });

  it.each([
    ['a row of another width', 'a,b\n1,2\n3\n', 'data.csv line 3: expected 2 columns (a, b), got 1; is a quote or a comma unescaped?'],
    ['an open quote', 'a\n"x\ny\n', 'data.csv line 3: expected CSV, got a mistake in it'],
    ['a column named twice', 'a,a\n1,2\n', "data.csv line 1: expected every column once, got 'a' twice"],
    ['a column without a name', 'a, \n1,2\n', 'data.csv line 1: expected a name for column 2, got none'],
    ['an empty file', '', 'data.csv line 1: expected a header with the column names, got an empty file'],
  ])('refuses %s, naming the line', async (_, content, message) => {
    await expect(read('csv', content)).rejects.toThrow(`dataset.uri: ${message}`);
  });

  it('refuses bytes that are not UTF-8, naming the line', async () => {
    await expect(read('csv', Buffer.from('a\nok\ncaf\xe9\n', 'latin1'))).rejects.toThrow('data.csv line 3: expected UTF-8 text, got bytes that are not');
    await expect(read('csv', Buffer.concat([Buffer.from(`a\n${'x\n'.repeat(50_000)}`), Buffer.from('caf\xe9\nx\n', 'latin1')]))).rejects.toThrow('data.csv line 50002:');
  });
});

describe('JSONL', () => {
  it('reads an object a line, skipping blank ones; columns are those of the first rows', async () => {
    expect(await read('jsonl', '{"a":"x","b":1}\r\n\n{"a":"line\u2028separator","c":null}')).toEqual({
      columns: ['a', 'b', 'c'],
      rows: [{ place: 'line 1', values: { a: 'x', b: 1 } }, { place: 'line 3', values: { a: 'line\u2028separator', c: null } }],
    });
  });

  it.each([
    ['a mistake', '{"a":1}\n{"a":}\n', 'data.jsonl line 2: expected a JSON object, got a mistake in it'],
    ['an array', '[1]\n', 'data.jsonl line 1: expected a JSON object of column names and values, got an array'],
  ])('refuses %s, naming the line', async (_, content, message) => {
    await expect(read('jsonl', content)).rejects.toThrow(message);
  });
});

describe('JSON', () => {
  it('reads an array of objects', async () => {
    expect(await read('json', '\ufeff[{"a":"x"},{"b":true}]')).toEqual({
      columns: ['a', 'b'], rows: [{ place: 'item 1', values: { a: 'x' } }, { place: 'item 2', values: { b: true } }],
    });
  });

  it.each([
    ['an object', '{"data":[]}', 'data.json: expected an array of objects, got an object; one object a line is .jsonl'],
    ['a mistake', '[\n{"a":1}\n{"a":2}]', 'data.json line 3: expected JSON, got a mistake in it'],
    ['an item that is no object', '[{"a":1}, "x"]', 'data.json item 2: expected a JSON object of column names and values, got a string'],
  ])('refuses %s', async (_, content, message) => {
    await expect(read('json', content)).rejects.toThrow(message);
  });
});

describe('JSON as it comes', () => {
  it('is read item by item, whatever is in it', async () => {
    const items = Array.from({ length: 30_000 }, (_, i) => ({ id: i, text: `"[{,]}\\ ${'é'.repeat(i % 9)}`, list: [i, { a: [] }] }));
    for (const space of [0, 2]) {
      const { rows } = await read('json', JSON.stringify(items, null, space));
      expect(rows.map(({ values }) => values)).toEqual(items);
    }
  });

  it('may be empty', async () => expect(await read('json', ' [ ] \n')).toEqual({ columns: [], rows: [] }));

  it('takes its columns from the first rows', async () => {
    const items = [...Array.from({ length: 100 }, () => ({ a: 1 })), { b: 2 }];
    expect((await read('json', JSON.stringify(items))).columns).toEqual(['a']);
  });

  it.each([
    ['an array without its end', '[{"a":1},', 'data.json line 1: expected JSON, got a mistake in it: an array without its end'],
    ['something after it', '[{"a":1}]\nx', 'data.json line 2: expected JSON, got a mistake in it: "x" after the array'],
    ['two commas', '[{"a":1},\n,{"a":2}]', "data.json line 2: expected JSON, got a mistake in it: nothing before ','"],
    ['a comma at the end', '[{"a":1},]', "data.json line 1: expected JSON, got a mistake in it: nothing before ']'"],
    ['an empty file', ' \n', 'data.json line 2: expected JSON, got a mistake in it: an empty file'],
    ['a text', '"x"', 'data.json: expected an array of objects, got a string'],
    ['no JSON', '<html>', 'data.json: expected an array of objects, got something that begins with "<"'],
    ['a wrong bracket', '[{"a":1]]', 'data.json line 1: expected JSON, got a mistake in it'],
  ])('refuses %s', async (_, content, message) => {
    await expect(read('json', content)).rejects.toThrow(message);
  });
});

describe('compressed text', () => {
  const golden = (extension: string) => readFileSync(goldenPath(`compressed/rows.csv.${extension}`));
  const expected = Array.from({ length: 20_000 }, (_, i) => ({ name: `row ${i}`, text: `café ${i % 7}` }));

  it.each(['gz', 'bz2', 'zst'])('.%s: all rows, of all its parts', async (extension) => {
    const { columns, rows } = await read('csv', golden(extension));
    expect(columns).toEqual(['name', 'text']);
    expect(rows.map(({ values }) => values)).toEqual(expected);
  });

  it.each([['gz', 'gzip'], ['bz2', 'bzip2'], ['zst', 'Zstandard']])('.%s that is cut short or damaged is refused', async (extension, kind) => {
    const bytes = golden(extension);
    await expect(read('csv', bytes.subarray(0, bytes.length - 200))).rejects.toThrow(`data.csv: expected ${kind} data, got a mistake in it: `);
    const damaged = Buffer.from(bytes);
    damaged.fill(0xa5, 40, 400);
    await expect(read('csv', damaged)).rejects.toThrow(/^dataset\.uri: data\.csv/);
  });

  it('is told by its first bytes: text that begins alike is text', async () => {
    expect(await read('csv', 'BZh9,b\n1,2\n')).toEqual({ columns: ['BZh9', 'b'], rows: [{ place: 'line 2', values: { BZh9: '1', b: '2' } }] });
  });
});

describe('Parquet', () => {
  const buffer = () => new Uint8Array(parquetWriteBuffer({
    columnData: [
      { name: 'product', data: ['a', 'b', 'c'], type: 'STRING' },
      { name: 'price', data: [1n, 2n, 3n], type: 'INT64' },
      { name: 'note', data: ['x', null, 'z'], type: 'STRING', nullable: true },
    ],
    rowGroupSize: [2, 1],
    codec: 'SNAPPY',
  }));

  it('reads all row groups', async () => {
    const { columns, rows } = await read('parquet', buffer());
    expect(columns).toEqual(['product', 'price', 'note']);
    expect(rows.map(({ place }) => place)).toEqual(['row 1', 'row 2', 'row 3']);
    expect(rows[2].values).toEqual({ product: 'c', price: 3n, note: 'z' });
  });

  it('reads a large row group in parts, each row once and in order', async () => {
    const count = 80_000;
    const data = Array.from({ length: count }, (_, i) => `${i} ${'x'.repeat(900)}`);
    const large = new Uint8Array(parquetWriteBuffer({ columnData: [{ name: 'text', data, type: 'STRING' }], rowGroupSize: count, codec: 'SNAPPY' }));
    const { rows } = await read('parquet', large);
    expect(rows.map(({ values }) => values.text)).toEqual(data);
    expect(rows.at(-1)!.place).toBe(`row ${count}`);
  });

  it('reads only the columns that are wanted', async () => {
    expect((await read('parquet', buffer(), ['note'])).rows[0].values).toEqual({ note: 'x' });
  });

  it.each([
    ['another file', 'product,price\n1,2\n'],
    ['a truncated file', undefined],
  ])('refuses %s', async (_, content) => {
    await expect(read('parquet', content ?? buffer().slice(0, 60))).rejects.toThrow('data.parquet: expected a Parquet file, got one without its footer');
  });

  it('refuses a file whose data pages are damaged, naming the rows', async () => {
    const damaged = buffer();
    damaged.fill(0xff, 4, 40);
    await expect(read('parquet', damaged)).rejects.toThrow('data.parquet rows 1 to 2: expected Parquet data, got a mistake in it');
  });
});

describe('readerFor', () => {
  it('goes by format, then extension, then media type', () => {
    expect(readerFor({ format: 'jsonl' }, 'a.csv', '').extensions).toContain('.jsonl');
    expect(readerFor({}, 'A.CSV', 'application/jsonl').extensions).toContain('.csv');
    expect(readerFor({}, 'A.CSV.gz', '').extensions).toContain('.csv');
    expect(readerFor({}, 'wordnet-artifacts', 'application/jsonl').extensions).toContain('.jsonl');
  });

  it('asks for the format where nothing tells it', () => {
    expect(() => readerFor({}, 'data.xlsx', '')).toThrow(
      "dataset.format: expected one of csv, json, jsonl, parquet, as 'data.xlsx' does not end in .csv, .json, .jsonl, .ndjson, .parquet; got none",
    );
  });
});

describe('columns', () => {
  it('are the file\'s and those named anew', () => {
    expect(runColumns(['a', 'b'], { product: 'a', b: 'a' })).toEqual(['product', 'b', 'a']);
  });

  it('named anew must exist in the file', () => {
    expect(mappingProblems(['a', 'b'], { product: 'a', category: 'c' })).toEqual([
      { path: 'dataset.columns.category', message: "expected a column of the file (a, b), got 'c'" },
    ]);
  });
});

describe('cellText', () => {
  it.each([
    [null, ''], [undefined, ''], ['x', 'x'], [1.5, '1.5'], [true, 'true'], [12n, '12'], [new Date(0), '1970-01-01T00:00:00.000Z'],
    [['a', 1n], '["a","1"]'], [{ a: 1 }, '{"a":1}'], [new Uint8Array(2), undefined],
  ])('of %o is %o', (value, text) => expect(cellText(value)).toBe(text));
});
