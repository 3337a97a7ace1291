import { expect, it } from 'vitest';
import { histogram } from '../../engine/data/histogram.js';

it('counts each value in the bin it falls into', () => {
  expect(histogram([0, 1, 1, 3])).toEqual({ edges: [0, 1, 2, 3, 4], counts: [1, 2, 0, 1] });
});

it('rounds the width to 1, 2 or 5 times a power of ten and has at most 20 bins', () => {
  const { edges, counts } = histogram([7, 256, 300, 399]);
  expect(edges.slice(0, 3)).toEqual([0, 20, 40]);
  expect(counts).toHaveLength(20);
  expect(counts[12]).toBe(1);
  expect(counts[15]).toBe(1);
  expect(counts[19]).toBe(1);
  expect(histogram([400]).edges[1]).toBe(50);
});

it('has no bins without values', () => expect(histogram([])).toEqual({ edges: [0], counts: [] }));
