import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readTokenFile, writeTokenFile } from '../../engine/data/token-file.js';
import { TokenTable } from '../../engine/data/token-table.js';
import { writeSafetensors, type SafetensorsTensor } from '../../engine/formats/safetensors.js';

let directory: string;
beforeAll(async () => void (directory = await mkdtemp(join(tmpdir(), 'token-file-'))));
afterAll(() => rm(directory, { recursive: true }));

const rows = [
  { ids: Int32Array.of(5, 6, 7), mask: Uint8Array.of(0, 0, 1) },
  { ids: Int32Array.of(8), mask: Uint8Array.of(0) },
  { ids: Int32Array.of(9, 10), mask: Uint8Array.of(0, 1) },
];

describe('a token file', () => {
  it('gives back the rows it was written from', async () => {
    const path = join(directory, 'rows.safetensors');
    await writeTokenFile(path, TokenTable.of(rows));
    const read = await readTokenFile(path);
    expect(read.count).toBe(3);
    rows.forEach(({ ids, mask }, row) => {
      expect(read.length(row)).toBe(ids.length);
      expect(read.ids(row)).toEqual(ids);
      expect(read.mask(row)).toEqual(mask);
    });
  });

  it('has the same bytes for the same rows', async () => {
    await writeTokenFile(join(directory, 'a'), TokenTable.of(rows));
    await writeTokenFile(join(directory, 'b'), TokenTable.of(rows));
    expect(await readFile(join(directory, 'a'))).toEqual(await readFile(join(directory, 'b')));
  });

  it('may hold no row', async () => {
    const path = join(directory, 'none.safetensors');
    await writeTokenFile(path, new TokenTable());
    expect((await readTokenFile(path)).count).toBe(0);
  });
});

describe('readTokenFile', () => {
  const ids: SafetensorsTensor = { dtype: 'I32', shape: [3], data: Int32Array.of(1, 2, 3) };
  const mask: SafetensorsTensor = { dtype: 'U8', shape: [3], data: Uint8Array.of(0, 1, 1) };
  const offsets: SafetensorsTensor = { dtype: 'I32', shape: [2], data: Int32Array.of(0, 3) };
  it.each<[string, Record<string, SafetensorsTensor>, string]>([
    ['no mask', { input_ids: ids, row_offsets: offsets }, 'bad.safetensors: tensor loss_mask: expected to exist, got none'],
    ['ids of another type', { input_ids: { dtype: 'F32', shape: [3], data: Float32Array.of(1, 2, 3) }, loss_mask: mask, row_offsets: offsets },
      'tensor input_ids: expected a vector of I32, got F32 [3]'],
    ['a short mask', { input_ids: ids, loss_mask: { dtype: 'U8', shape: [2], data: Uint8Array.of(0, 1) }, row_offsets: offsets },
      'tensor loss_mask: expected 3 entries, as input_ids has, got 2'],
    ['offsets past the end', { input_ids: ids, loss_mask: mask, row_offsets: { ...offsets, data: Int32Array.of(0, 4) } as SafetensorsTensor },
      'tensor row_offsets: expected 0 … 3, got 0 … 4'],
    ['an empty row', { input_ids: ids, loss_mask: mask, row_offsets: { dtype: 'I32', shape: [3], data: Int32Array.of(0, 0, 3) } },
      'tensor row_offsets[1]: expected more than 0, got 0'],
    ['no offsets', { input_ids: ids, loss_mask: mask, row_offsets: { dtype: 'I32', shape: [0], data: Int32Array.of() } },
      'tensor row_offsets: expected 0 … 3, got nothing … nothing'],
  ])('refuses %s', async (_, tensors, message) => {
    const path = join(directory, 'bad.safetensors');
    await writeSafetensors(path, new Map(Object.entries(tensors)));
    await expect(readTokenFile(path)).rejects.toThrow(message);
  });
});
