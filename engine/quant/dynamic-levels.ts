/**
 * The 256 levels of the signed dynamic 8-bit type (8-bit Optimizers via Block-wise Quantization, arXiv 2110.02861): a sign,
 * a decimal exponent from -6 to 0 in unary, and a linear fraction in the bits that are left; plus 0 and 1.
 */
export const dynamicLevels: Float32Array = levels();

function levels(): Float32Array {
  const all = [0, 1];
  for (let exponent = 0; exponent < 7; exponent++) {
    const items = 2 ** exponent;
    const scale = 10 ** (exponent - 6);
    for (let i = 0; i < items; i++) {
      const mean = Math.fround(Math.fround(boundary(i, items) + boundary(i + 1, items)) / 2);
      const value = Math.fround(Math.fround(scale) * mean);
      all.push(value, -value);
    }
  }
  return Float32Array.from(all).sort();
}

/** Point i of `items` + 1 evenly spaced from 0.1 to 1, counted from the nearer end, with one rounding to float32. */
function boundary(i: number, items: number): number {
  const start = Math.fround(0.1);
  const step = Math.fround(Math.fround(1 - start) / items);
  return Math.fround(i < Math.floor((items + 1) / 2) ? start + step * i : 1 - step * (items - i));
}
