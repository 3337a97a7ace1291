/** Counts of values in bins of equal width: bin i holds edges[i] ≤ value < edges[i + 1]. */
export interface Histogram {
  /** One more than `counts`, ascending. */
  edges: number[];
  counts: number[];
}

const LARGEST_BIN_COUNT = 20;

/** A histogram of whole numbers ≥ 0 from 0 up, in at most 20 bins whose width is 1, 2 or 5 times a power of ten. No bins for no values. */
export function histogram(values: readonly number[] | Uint32Array): Histogram {
  if (values.length === 0) return { edges: [0], counts: [] };
  let largest = 0;
  for (const value of values) largest = Math.max(largest, value);
  const width = roundWidth((largest + 1) / LARGEST_BIN_COUNT);
  const counts = new Array<number>(Math.floor(largest / width) + 1).fill(0);
  for (const value of values) counts[Math.floor(value / width)]++;
  return { edges: Array.from({ length: counts.length + 1 }, (_, i) => i * width), counts };
}

/** The smallest of 1, 2, 5, 10, 20, 50, … that is at least `width`. */
function roundWidth(width: number): number {
  for (let power = 1; ; power *= 10) {
    const found = [1, 2, 5].find((factor) => factor * power >= width);
    if (found !== undefined) return found * power;
  }
}
