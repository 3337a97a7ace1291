import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { join } from 'node:path';
import { parquetWriteBuffer } from 'hyparquet-writer';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ingestStage } from '../../activities/ingest.js';
import type { ArtifactRef } from '../../contracts/artifact.js';
import { fineTuneConfigSchema } from '../../contracts/fine-tune-config.js';
import { ingestOutputSchema } from '../../contracts/stages.js';
import { sampleIndices, splitIndices } from '../../engine/data/splits.js';
import { readJsonl, stageKit } from '../kit/stage.js';
import { temporaryDirectory } from '../kit/temporary.js';

let kit: Awaited<ReturnType<typeof stageKit>>;
beforeAll(async () => void (kit = await stageKit()));
afterAll(() => kit.remove());

const requiredColumns = ['product', 'description'];
const text = (from: number, count: number) => Array.from({ length: count }, (_, i) => ({ product: `p${from + i}`, description: `d${from + i}` }));
const csv = (from: number, count: number) => ['product,description', ...text(from, count).map((row) => `${row.product},${row.description}`)].join('\n');
const jsonl = (from: number, count: number) => text(from, count).map((row) => JSON.stringify(row)).join('\n');

async function ingest(files: ArtifactRef[], dataset: object = {}) {
  const input = {
    dataset: fineTuneConfigSchema.shape.dataset.parse({ uri: files.map(({ uri }) => uri), ...dataset }),
    file: files.length === 1 ? files[0] : files, requiredColumns, promptColumns: ['product'],
  };
  const output = ingestOutputSchema.parse(await ingestStage.run(input, kit.context));
  return { output, train: await readJsonl(kit.context, output.train), test: await readJsonl(kit.context, output.test) };
}

describe('a dataset of several files', () => {
  it('is one file after the other, whatever their formats', async () => {
    const parquet = new Uint8Array(parquetWriteBuffer({ columnData: requiredColumns.map((name) => ({ name, data: text(20, 10).map((row) => row[name as 'product']) })) }));
    const files = [await kit.dataset('a.csv', csv(0, 10)), await kit.dataset('b.jsonl', jsonl(10, 10)), await kit.dataset('c.parquet', parquet)];
    const { output, train, test } = await ingest(files, { split: { test: 5, seed: 1 } });
    expect(output.report).toMatchObject({ read: 30, train: 25, test: 5 });
    const rows = text(0, 30);
    const parts = splitIndices(30, 5, 1);
    expect(train).toEqual(Array.from(parts.train, (index) => rows[index]));
    expect(test).toEqual(Array.from(parts.test, (index) => rows[index]));
  });

  it('is sampled as a whole', async () => {
    const files = [await kit.dataset('a.csv', csv(0, 3000)), await kit.dataset('b.csv', csv(3000, 3000))];
    const { output, train, test } = await ingest(files, { sample: { rows: 5000, seed: 7 }, split: { test: 100, seed: 3 } });
    const rows = text(0, 6000);
    const sampled = Array.from(sampleIndices(6000, 5000, 7), (index) => rows[index]);
    const parts = splitIndices(5000, 100, 3);
    expect(train).toEqual(Array.from(parts.train, (index) => sampled[index]));
    expect(test).toEqual(Array.from(parts.test, (index) => sampled[index]));
    expect(output.report.dropped.unsampled).toBe(1000);
  });

  it('drops a row that an earlier file has', async () => {
    const files = [await kit.dataset('a.csv', csv(0, 10)), await kit.dataset('b.csv', csv(5, 10))];
    expect((await ingest(files, { split: { test: 2 } })).output.report).toMatchObject({ read: 20, dropped: { duplicate: 5 } });
  });

  it('must have its columns in every file', async () => {
    const files = [await kit.dataset('a.csv', csv(0, 10)), await kit.dataset('b.csv', 'product,text\na,b\n')];
    await expect(ingest(files)).rejects.toThrow("format: b.csv: {description}: expected a column of the dataset (product, text), got 'description'");
  });
});

it('a file larger than the memory is read', async () => {
  const directory = temporaryDirectory();
  const file = createWriteStream(join(directory, 'large.jsonl'));
  const rows = 250_000;
  for (let i = 0; i < rows; i++) {
    if (!file.write(`${JSON.stringify({ product: `p${i}`, description: `${i} ${'lorem ipsum '.repeat(30)}` })}\n`)) await once(file, 'drain');
  }
  file.end();
  await once(file, 'close');
  expect(file.bytesWritten).toBeGreaterThan(90e6);

  const child = spawn(process.execPath, ['--max-old-space-size=48', '--import', 'tsx', 'test/kit/ingest-large.ts', directory], { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const [code] = (await once(child, 'close')) as [number];
  expect({ code, output }).toEqual({ code: 0, output: JSON.stringify({ read: rows, train: rows - 1000, test: 1000 }) });
}, 120_000);
