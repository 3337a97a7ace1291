import { describe, expect, it } from 'vitest';
import { epochOrder, groupOrderByLength, IGNORED, lineWidth, packLine, packRows, type TokenRows } from '../../engine/data/batches.js';
import golden from '../golden/data-metrics.json' with { type: 'json' };

/** Rows of the given lengths with ids that name row and place (100 · (row + 1) + place), all but the first token counted. */
function rowsOf(lengths: number[], masked: Record<number, number[]> = {}): TokenRows {
  return {
    count: lengths.length,
    length: (row) => lengths[row],
    ids: (row) => Int32Array.from({ length: lengths[row] }, (_, i) => 100 * (row + 1) + i),
    mask: (row) => Uint8Array.from({ length: lengths[row] }, (_, i) => Number(i > 0 && !masked[row]?.includes(i))),
  };
}

describe('packRows', () => {
  it('puts short rows side by side in lines as long as the longest row', () => {
    const batch = packRows(rowsOf([2, 5, 3]), [0, 1, 2]);
    expect(batch.shape).toEqual([2, 5]);
    expect([...batch.inputIds]).toEqual([200, 201, 202, 203, 204, 300, 301, 302, 100, 101]);
    expect([...batch.positions]).toEqual([0, 1, 2, 3, 4, 0, 1, 2, 0, 1]);
    expect([...batch.segments]).toEqual([1, 1, 1, 1, 1, 1, 1, 1, 2, 2]);
    expect(batch).toMatchObject({ rows: 3, tokens: 10 });
  });

  it('labels each position with the next token of its row, never of the next row', () => {
    const batch = packRows(rowsOf([4, 2, 2]), [0, 1, 2]);
    expect([...batch.labels]).toEqual([101, 102, 103, IGNORED, 201, IGNORED, 301, IGNORED]);
    expect(batch.countedTokens).toBe(5);
  });

  it('counts no token whose mask is 0', () => {
    const batch = packRows(rowsOf([4], { 0: [1, 2] }), [0]);
    expect([...batch.labels]).toEqual([IGNORED, IGNORED, 103, IGNORED]);
    expect(batch.countedTokens).toBe(1);
  });

  it('rounds the line length up and leaves padding in segment 0', () => {
    const batch = packRows(rowsOf([5]), [0], { multipleOf: 8 });
    expect(batch.shape).toEqual([1, 8]);
    expect([...batch.segments]).toEqual([1, 1, 1, 1, 1, 0, 0, 0]);
    expect([...batch.labels.subarray(5)]).toEqual([IGNORED, IGNORED, IGNORED]);
    expect(batch.tokens).toBe(5);
  });

  it('takes only the rows it is given', () => {
    expect([...packRows(rowsOf([2, 9, 2]), [2]).inputIds]).toEqual([300, 301]);
  });
});

describe('packLine', () => {
  it('puts all rows into one line, longest first, with the padding behind them', () => {
    const batch = packLine(rowsOf([2, 5, 3]), [0, 1, 2]);
    expect(batch.shape).toEqual([1, 128]);
    expect([...batch.inputIds.subarray(0, 11)]).toEqual([200, 201, 202, 203, 204, 300, 301, 302, 100, 101, 0]);
    expect([...batch.segments.subarray(0, 11)]).toEqual([1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 0]);
    expect([...batch.labels.subarray(10)].every((label) => label === IGNORED)).toBe(true);
    expect(batch).toMatchObject({ rows: 3, tokens: 10, countedTokens: 7 });
  });

  it('has few widths, none much wider than it must be', () => {
    const widths = new Set<number>();
    for (let tokens = 1; tokens <= 8192; tokens++) {
      const width = lineWidth(tokens);
      expect(width).toBeGreaterThanOrEqual(tokens);
      expect(width - tokens).toBeLessThan(Math.max(128, tokens / 16));
      widths.add(width);
    }
    expect(widths.size).toBeLessThanOrEqual(48);
  });
});

describe('groupOrderByLength', () => {
  it.each(golden.orders.map((order) => [order.lengths.length, order] as const))('gives transformers\' order of %d rows', (_, { lengths, batchSize, shuffled, grouped }) => {
    expect(groupOrderByLength(shuffled, (row) => lengths[row], batchSize)).toEqual(grouped);
  });
});

describe('epochOrder', () => {
  const rows = rowsOf(Array.from({ length: 100 }, (_, i) => 1 + (i * 37) % 50));
  const options = { seed: 42, epoch: 0, batchSize: 4, groupByLength: true };

  it.each([true, false])('visits every row once (groupByLength %s)', (groupByLength) => {
    const order = epochOrder(rows, { ...options, groupByLength });
    expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, i) => i));
  });

  it('is the same for the same options', () => {
    expect(epochOrder(rows, options)).toEqual(epochOrder(rows, options));
  });

  it.each([{ seed: 43 }, { epoch: 1 }, { groupByLength: false }])('differs with %j', (change) => {
    expect(epochOrder(rows, { ...options, ...change })).not.toEqual(epochOrder(rows, options));
  });

  it('starts with the longest row when grouping', () => {
    expect(rows.length(epochOrder(rows, options)[0])).toBe(50);
  });

  it('is empty without rows', () => {
    expect(epochOrder(rowsOf([]), options)).toEqual([]);
  });
});
