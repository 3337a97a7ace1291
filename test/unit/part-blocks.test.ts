import { describe, expect, test } from 'vitest';
import { inputBlocks, loraInputProgram, loraOutputProgram, MAX_TILES, outputBlocks, rankTiles } from '../../engine/cuda/programs/lora.cu.js';
import type { PartBlocks } from '../../engine/cuda/programs/part-blocks.js';

const ranks = [1, 3, 8, 16, 24, 32, 64], rowCounts = [1, 63, 64, 65, 512, 4099, 100_000], widths = [8, 128, 136, 3200, 8640, 32_000];
/** What a block may have on the cards that have the least. */
const SHARED_LIMIT = 99 << 10;

function expectWhole({ tiles, rows: perBlock, columnBlocks, rowBlocks }: PartBlocks, rows: number, width: number): void {
  expect([columnBlocks, rowBlocks]).toEqual([Math.ceil(width / (128 * tiles)), Math.ceil(rows / perBlock)]);
  expect(perBlock % 16).toBe(0);
  expect(rowBlocks).toBeLessThan(65_536);
}

describe("the blocks of branches' backward kernels", () => {
  test.each(ranks)('of rank %i cover all rows and columns, and have the shared memory', (rank) => {
    for (const members of [1, 2, 3].filter((count) => count * rankTiles(rank) <= MAX_TILES)) {
      for (const rows of rowCounts) {
        for (const width of widths) {
          const output = { rank, members, rows, width }, input = { rank, members, rows, inner: width, masked: true };
          expectWhole(outputBlocks(output), rows, width);
          expectWhole(inputBlocks(input), rows, width);
          for (const { sharedBytes } of [loraOutputProgram(output), loraInputProgram(input)]) expect(sharedBytes).toBeLessThanOrEqual(SHARED_LIMIT);
        }
      }
    }
  });

  test.each([[4096, 3, 3200], [8192, 3, 3200], [4096, 2, 8640], [8192, 2, 8640]])('leave parts of less than a tenth of what is read: %i rows, %i members of %i columns', (rows, members, width) => {
    const { columnBlocks, rowBlocks } = outputBlocks({ rank: 8, members, rows, width });
    expect((4 * 8 * (columnBlocks * rows + rowBlocks * width)) / (2 * rows * width)).toBeLessThan(0.1);
  });
});
