import { ceilDiv } from '../program.js';

export interface AttentionShape {
  batch: number;
  /** Positions of a row of the batch, T. */
  length: number;
  heads: number;
  kvHeads: number;
  headSize: number;
  /** Queries and keys were rotated: their gradients are turned back by the angles of their positions. @default false */
  rotated?: boolean;
}

/** Largest head size: beyond it the accumulators do not fit the registers. */
export const MAX_HEAD_SIZE = 128;

/** Head size as the tensor cores see it: whole steps of 16. */
export const paddedHeadSize = (headSize: number): number => ceilDiv(headSize, 16) * 16;

/** Bytes of one access: the largest that every head's first element is aligned to. */
export const accessBytes = (headSize: number): 16 | 8 | 4 => (headSize % 8 === 0 ? 16 : headSize % 4 === 0 ? 8 : 4);

/**
 * Floats from one head's log-sums (or row products) to the next: tiles of queries are copied whole, so that there is a tile
 * of room behind the last position.
 */
export const stateLength = (length: number): number => ceilDiv(length, 128) * 128 + 128;
