import type { Tensor2D } from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import type { CudaBackend } from '../../engine/cuda/backend.js';
import { withMatrices, type Matrix } from '../../engine/cuda/weights.js';

const INNER = 64;
const matrix = (rows: number): Matrix => ({ address: 512, format: 'bf16', rows, columns: INNER, stride: INNER });
const loaded = (rows: number): Matrix => ({ kind: 'dense', shape: [rows, INNER], value: {} as Tensor2D });

/** How many matrices come at a time. */
function counts(keepDequantized: CudaBackend['keepDequantized'], weights: Matrix[], rows: number): number[] {
  const backend = { keepDequantized, convert: () => undefined, address: () => 1024 } as Partial<CudaBackend> as CudaBackend, handed: number[] = [];
  withMatrices(backend, weights.map((weight) => ({ weight })), rows, (matrices, first) => {
    expect(matrices.map(({ rows }) => rows)).toEqual(weights.slice(first, first + matrices.length).map((weight) => ('rows' in weight ? weight.rows : weight.shape[0])));
    handed.push(matrices.length);
  });
  return handed;
}

describe('matrices of layers that share an input', () => {
  it.each<[string, CudaBackend['keepDequantized'], Matrix[], number, number[]]>([
    ['come together for a long input', 'never', [matrix(96), matrix(32), matrix(32)], 72, [3]],
    ['come one by one for a short input, whose results do not lie together, also if copies are there', 'never', [matrix(96), matrix(32), matrix(32)], 71, [1, 1, 1]],
    ['come together for a short input if copies are kept', 'always', [matrix(96), matrix(32), matrix(32)], 1, [3]],
    ['come one by one if their values were loaded', 'always', [loaded(32), loaded(32)], 64, [1, 1]],
    ['come together beside one whose values were loaded', 'always', [loaded(32), matrix(32), matrix(32)], 64, [1, 2]],
  ])('%s', (_name, keep, weights, rows, expected) => {
    expect(counts(keep, weights, rows)).toEqual(expected);
  });
});
