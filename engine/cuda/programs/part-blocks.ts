import { ceilDiv } from '../program.js';

/*
 * How a tall matrix is divided among blocks that read it once and leave parts of sums in float32: wide blocks leave fewer parts of sums over
 * columns, tall ones fewer of sums over rows.
 */

/** Columns that a row of a block's stage is a multiple of. */
export const PART_COLUMNS = 128;

export interface PartShape {
  rows: number;
  columns: number;
  /** Matrices of this shape. @default 1 */
  matrices?: number;
  /** Most tiles of 128 columns that a block can have. */
  most: number;
}

/** What a block reads at a time. */
export interface PartStage {
  /** Of all of the block's columns. */
  rows: number;
  /** Stages that are on their way at once. */
  ahead: number;
  /** Of the block. */
  sharedBytes: number;
}

export interface PartBlocks {
  /** Tiles of 128 columns of a block. */
  tiles: number;
  /** Rows of a block: whole stages. */
  rows: number;
  columnBlocks: number;
  rowBlocks: number;
}

/** An H100's multiprocessors, and the shared memory that one has for its blocks. Other cards get the same blocks, so that their sums are of the same parts. */
export const MULTIPROCESSORS = 132;
const SHARED_BYTES = 227 << 10;
/** What a multiprocessor must have on its way for its share of the memory's rate. */
const NEEDED_BYTES = 96 << 10;
/** What the memory could move in the time that a round of blocks takes to begin and to end. */
const ROUND_BYTES = 6e6;
/** What a piece of a row costs beyond its bytes. */
const PIECE_BYTES = 64;

/**
 * The division that takes the least time, reckoned in bytes: the multiprocessor with the most blocks ends last (272 blocks take as long as
 * 396 do), it reaches its share of the memory's rate only with enough on its way, and parts are written and read.
 * @param parts bytes of the parts that such blocks leave
 */
export function partBlocks({ rows, columns, matrices = 1, most }: PartShape, stageOf: (tiles: number) => PartStage, parts: (blocks: PartBlocks) => number): PartBlocks {
  const columnTiles = Math.max(1, ceilDiv(columns, PART_COLUMNS));
  let best: PartBlocks | undefined, least = Infinity;
  for (let tiles = 1; tiles <= Math.min(most, columnTiles); tiles++) {
    const stage = stageOf(tiles), columnBlocks = ceilDiv(columnTiles, tiles), stages = Math.max(1, ceilDiv(rows, stage.rows));
    const together = Math.max(1, Math.floor(SHARED_BYTES / (stage.sharedBytes + 1024))), rowBytes = tiles * PART_COLUMNS * 2;
    for (let count = 1; count <= Math.min(stages, ceilDiv(2 * together * MULTIPROCESSORS, columnBlocks * matrices)); count++) {
      const blockRows = ceilDiv(stages, count) * stage.rows, rowBlocks = Math.max(1, ceilDiv(rows, blockRows));
      if (rowBlocks < count) continue; // the same as with fewer
      const blocks = { tiles, rows: blockRows, columnBlocks, rowBlocks }, busiest = ceilDiv(columnBlocks * rowBlocks * matrices, MULTIPROCESSORS);
      const waiting = Math.max(1, NEEDED_BYTES / (Math.min(busiest, together) * stage.ahead * stage.rows * rowBytes));
      const cost = MULTIPROCESSORS * busiest * blockRows * (rowBytes + PIECE_BYTES) * waiting + ceilDiv(busiest, together) * ROUND_BYTES + 2 * parts(blocks);
      if (cost < least) [best, least] = [blocks, cost];
    }
  }
  return best!;
}

/** How many stages of so many bytes a block keeps in shared memory: one that is being read, and those on their way. */
export const stagesOf = (bytes: number): number => Math.min(6, Math.max(3, Math.floor((80 << 10) / bytes)));
