import { permutation } from '../random/shuffle.js';

/** Tokenised rows, by number. */
export interface TokenRows {
  readonly count: number;
  /** Tokens in a row. */
  length(row: number): number;
  ids(row: number): Int32Array;
  /** One byte a token: 1 where the loss counts it, that is, where predicting it is trained. 0 for a row's first token, which nothing predicts. */
  mask(row: number): Uint8Array;
}

/** Marks a position whose prediction the loss does not count. */
export const IGNORED = -100;

/** Rows side by side in B lines of T positions; every array is [B, T], row-major. */
export interface PackedBatch {
  shape: [number, number];
  /** 0 where there is padding. */
  inputIds: Int32Array;
  /** Position within the row, from 0; 0 where there is padding. */
  positions: Int32Array;
  /** 1, 2, … for the rows of a line from left to right; 0 where there is padding. Attention stays within a segment. */
  segments: Int32Array;
  /** The token that follows, or `IGNORED` where the loss does not count it: padding, a row's last position, masked tokens. */
  labels: Int32Array;
  rows: number;
  /** Tokens that are not padding. */
  tokens: number;
  /** Labels that are not `IGNORED`. */
  countedTokens: number;
}

/**
 * Lays rows into lines as long as the longest of them (rounded up), several short ones to a line, by first-fit decreasing.
 * As positions restart in each row and attention stays inside it, the numbers are those of one row a line, with less padding.
 *
 * @param indices The rows of the batch, at least one.
 * @param options.multipleOf T is rounded up to a multiple of this. @default 1
 */
export function packRows(rows: TokenRows, indices: readonly number[], { multipleOf = 1 }: { multipleOf?: number } = {}): PackedBatch {
  const longest = indices.reduce((longest, row) => Math.max(longest, rows.length(row)), 0);
  const width = Math.ceil(longest / multipleOf) * multipleOf;
  return layOut(rows, firstFitDecreasing(rows, indices, width), width);
}

/**
 * All rows one after the other in a single line, longest first, padded to one of few widths: a backend that records computations
 * by their shapes then sees few of them. Padding comes last, so that nothing drawn for a position depends on it.
 *
 * @param indices The rows of the batch, at least one.
 */
export function packLine(rows: TokenRows, indices: readonly number[]): PackedBatch {
  const line = [...indices].sort((a, b) => rows.length(b) - rows.length(a));
  return layOut(rows, [line], lineWidth(tokensOf(rows, indices)));
}

/** Tokens of some rows. */
export const tokensOf = (rows: TokenRows, indices: readonly number[]): number => indices.reduce((sum, row) => sum + rows.length(row), 0);

/** Smallest step between the widths of lines: the rows of a tile of a matrix product. */
const LINE_STEP = 128;

/** The width of a line for so many tokens: at most 128 or a sixteenth more, and sixteen widths between two powers of two. */
export function lineWidth(tokens: number): number {
  const step = Math.max(LINE_STEP, 2 ** (Math.floor(Math.log2(tokens)) - 4));
  return Math.ceil(tokens / step) * step;
}

function layOut(rows: TokenRows, lines: readonly (readonly number[])[], width: number): PackedBatch {
  const shape: [number, number] = [lines.length, width];
  const size = lines.length * width;
  const batch: PackedBatch = {
    shape,
    inputIds: new Int32Array(size), positions: new Int32Array(size), segments: new Int32Array(size), labels: new Int32Array(size).fill(IGNORED),
    rows: lines.reduce((sum, line) => sum + line.length, 0), tokens: 0, countedTokens: 0,
  };
  lines.forEach((line, lineNumber) => {
    let start = lineNumber * width;
    line.forEach((row, place) => {
      writeRow(batch, start, place + 1, rows.ids(row), rows.mask(row));
      start += rows.length(row);
    });
  });
  return batch;
}

/** Longest row first, each into the first line with room for it; equal lengths keep their order. */
function firstFitDecreasing(rows: TokenRows, indices: readonly number[], width: number): number[][] {
  const lines: { free: number; rows: number[] }[] = [];
  for (const row of [...indices].sort((a, b) => rows.length(b) - rows.length(a))) {
    const length = rows.length(row);
    let line = lines.find(({ free }) => free >= length);
    if (!line) lines.push((line = { free: width, rows: [] }));
    line.rows.push(row);
    line.free -= length;
  }
  return lines.map((line) => line.rows);
}

function writeRow(batch: PackedBatch, start: number, segment: number, ids: Int32Array, mask: Uint8Array): void {
  batch.inputIds.set(ids, start);
  for (let i = 0; i < ids.length; i++) {
    batch.positions[start + i] = i;
    batch.segments[start + i] = segment;
    if (i + 1 < ids.length && mask[i + 1] === 1) {
      batch.labels[start + i] = ids[i + 1];
      batch.countedTokens++;
    }
  }
  batch.tokens += ids.length;
}

/** Sets data order apart from everything else that a seed drives. */
const DATA_ORDER_STREAM = 0x64617461;

/** Batches in a mega-batch, and the share of the data it may hold at most, as in transformers' LengthGroupedSampler. */
const MEGA_BATCH = 50;
const FEWEST_MEGA_BATCHES = 4;

export interface EpochOrderOptions {
  seed: number;
  /** From 0; each epoch has its own order. */
  epoch: number;
  /** Rows of one optimizer step. */
  batchSize: number;
  groupByLength: boolean;
}

/** The order in which an epoch visits the rows: every row once, a pure function of the rows' lengths and the options. */
export function epochOrder(rows: TokenRows, { seed, epoch, batchSize, groupByLength }: EpochOrderOptions): number[] {
  const order = Array.from(permutation(rows.count, { seed, step: epoch, stream: DATA_ORDER_STREAM }));
  return groupByLength ? groupOrderByLength(order, (row) => rows.length(row), batchSize) : order;
}

/**
 * Sorts an order by length, longest first, within mega-batches of 50 batches (fewer when there are not four of them), and puts
 * the longest row of all first, so that a batch too large for memory shows at once.
 */
export function groupOrderByLength(order: readonly number[], length: (row: number) => number, batchSize: number): number[] {
  if (order.length === 0) return [];
  const batches = Math.min(Math.floor(order.length / (batchSize * FEWEST_MEGA_BATCHES)), MEGA_BATCH) || 1;
  const size = batches * batchSize;
  const groups: number[][] = [];
  for (let start = 0; start < order.length; start += size) {
    groups.push(order.slice(start, start + size).sort((a, b) => length(b) - length(a)));
  }
  const longest = groups.reduce((best, group, i) => (length(group[0]) > length(groups[best][0]) ? i : best), 0);
  [groups[0][0], groups[longest][0]] = [groups[longest][0], groups[0][0]];
  return groups.flat();
}
