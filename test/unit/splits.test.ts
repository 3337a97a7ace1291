import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { sampleIndices, splitIndices, testCount } from '../../engine/data/splits.js';
import { Mt19937 } from '../../engine/random/mt19937.js';
import { Pcg64 } from '../../engine/random/pcg64.js';
import { goldenPath } from '../kit/golden.js';

interface Digest { first: number[]; sha256: string }
const golden = JSON.parse(await readFile(goldenPath('numpy-random.json'), 'utf8')) as {
  samples: ({ rows: number; count: number; seed: number } & Digest)[];
  splits: { rows: number; test: number; seed: number; train: Digest; held: Digest }[];
  words: { seed: number; mt19937: number[]; pcg64: number[] }[];
};
const digest = (rows: Uint32Array): Digest => ({ first: [...rows.subarray(0, 8)], sha256: createHash('sha256').update(rows.join()).digest('hex') });

describe('sampleIndices', () => {
  it.each(golden.samples)('takes the rows of pandas: $count of $rows, random_state=$seed', ({ rows, count, seed, first, sha256 }) =>
    expect(digest(sampleIndices(rows, count, seed))).toEqual({ first, sha256 }));
});

describe('splitIndices', () => {
  it.each(golden.splits)('splits as datasets does: test_size=$test of $rows, seed=$seed', ({ rows, test, seed, train, held }) => {
    const parts = splitIndices(rows, testCount(rows, test), seed);
    expect(digest(parts.test)).toEqual(held);
    expect(digest(parts.train)).toEqual(train);
  });
});

describe.each(golden.words)('seed $seed', ({ seed, mt19937, pcg64 }) => {
  it('gives the words of numpy\'s MT19937, across its refill', () => {
    const generator = new Mt19937(seed % 2 ** 32);
    const words = Array.from({ length: 700 }, () => generator.word());
    expect([0, 1, 623, 624, 699].map((i) => words[i])).toEqual(mt19937);
  });

  it('gives the words of numpy\'s PCG64', () => {
    const generator = new Pcg64(seed);
    expect(Array.from({ length: 6 }, () => generator.word())).toEqual(pcg64);
  });
});

it('seeds that numpy refuses are refused', () => {
  expect(() => new Mt19937(2 ** 32)).toThrow('seed: expected a whole number from 0 to 4294967295, got 4294967296');
  expect(() => new Pcg64(-1)).toThrow('seed: expected a whole number from 0 to 9007199254740991, got -1');
});
