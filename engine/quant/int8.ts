/** A matrix in int8 with one scale a row (LLM.int8(), arXiv 2208.07339, without the outlier decomposition). */
export interface Int8Matrix {
  rows: number;
  columns: number;
  /** Row-major, -127 to 127. */
  codes: Int8Array;
  /** Largest magnitude of each row; a code stands for code / 127 of it. */
  absmax: Float32Array;
}

/** 1/127 in float32. */
const inverse127 = Math.fround(7.874015718698502e-3);

/** Quantises row-wise, bit for bit as bitsandbytes does; a row of zeros gives zeros. `values` must be finite. */
export function quantizeInt8(values: Float32Array, rows: number, columns: number): Int8Matrix {
  const codes = new Int8Array(rows * columns);
  const absmax = new Float32Array(rows);
  for (let row = 0; row < rows; row++) {
    const start = row * columns;
    let largest = 0;
    for (let i = start; i < start + columns; i++) {
      const magnitude = Math.abs(values[i]);
      if (magnitude > largest) largest = magnitude;
    }
    absmax[row] = largest;
    if (largest === 0) continue;
    const scale = Math.fround(127 / largest);
    for (let i = start; i < start + columns; i++) codes[i] = roundHalfEven(Math.fround(values[i] * scale));
  }
  return { rows, columns, codes, absmax };
}

/** The values that the codes stand for. */
export function dequantizeInt8({ rows, columns, codes, absmax }: Int8Matrix): Float32Array {
  const values = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let i = row * columns; i < (row + 1) * columns; i++) values[i] = Math.fround(codes[i] * absmax[row]) * inverse127;
  }
  return values;
}

/** Adding and taking away 1.5 × 2^52 leaves an integer, ties to even. */
const roundHalfEven = (value: number): number => value + 6755399441055744 - 6755399441055744;
