import { describe, expect, it } from 'vitest';
import type { MatrixOperand, Product } from '../../engine/cuda/cublas-lt.js';
import { multiplyEach, multiplySum } from '../../engine/cuda/joined-products.js';

const bf16 = (address: number, rows: number, columns: number, stride?: number): MatrixOperand => ({ address, format: 'bf16', rows, columns, stride });

/** What is multiplied, in memory of numbers where an address is twice an index. */
function run(multiply: (backend: { multiply(product: Product): void }) => void): { calls: Product[]; memory: number[] } {
  const calls: Product[] = [], memory = Array.from({ length: 4096 }, (_, i) => (i * 7) % 11 - 5);
  const at = ({ address, columns, stride = columns }: MatrixOperand, row: number, column: number): number => address / 2 + row * stride + column;
  multiply({
    multiply: (product) => {
      calls.push(product);
      const { batch = 1, beta = 0, transposeB } = product;
      for (let i = 0; i < batch; i++) {
        const [a, b, out] = [product.a, product.b, product.out].map((operand) => ({ ...operand, address: operand.address + 2 * i * (operand.batchStride ?? 0) }));
        for (let row = 0; row < out.rows; row++) for (let column = 0; column < out.columns; column++) {
          let sum = beta * memory[at(out, row, column)];
          for (let k = 0; k < a.columns; k++) sum += memory[at(a, row, k)] * memory[transposeB ? at(b, column, k) : at(b, k, column)];
          memory[at(out, row, column)] = sum;
        }
      }
    },
  });
  return { calls, memory };
}

describe('products that one call can do', () => {
  const x = bf16(0, 3, 8, 10);
  const layer = (weight: number, out: number, rows = 4): Product => ({ a: x, b: bf16(weight, rows, 8, 16), transposeB: true, out: bf16(out, 3, rows) });
  it.each<[string, Product[], (number | undefined)[]]>([
    ['three alike at one distance are one batch', [layer(512, 4096), layer(1024, 4608), layer(1536, 5120)], [3]],
    ['a wide one and two narrow ones are two calls', [layer(512, 4096, 8), layer(1024, 4608), layer(1536, 5120)], [undefined, 2]],
    ['a third at another distance stays by itself', [layer(512, 4096), layer(1024, 4608), layer(1536, 5632)], [2, undefined]],
    ['results that do not lie one after the other stay apart', [layer(512, 4608), layer(1024, 4096)], [undefined, undefined]],
    ['distances of no multiple of 16 bytes stay apart', [layer(512, 4096), layer(1024, 4602)], [undefined, undefined]],
    ['one that adds to its result stays apart', [layer(512, 4096), { ...layer(1024, 4608), beta: 1 }], [undefined, undefined]],
    ['one that adds another matrix stays apart', [{ ...layer(512, 4096), beta: 1, addend: 6000 }, { ...layer(1024, 4608), beta: 1, addend: 6000 }], [undefined, undefined]],
    ['the same matrix twice stays apart', [layer(512, 4096), layer(512, 4608)], [undefined, undefined]],
  ])('%s', (_name, products, batches) => {
    const { calls, memory } = run((backend) => multiplyEach(backend, products));
    expect(calls.map(({ batch }) => batch)).toEqual(batches);
    expect(memory).toEqual(run((backend) => products.forEach((product) => backend.multiply(product))).memory);
  });

  const out = bf16(7000, 2, 6);
  /** 8, 4 and 12 columns of one matrix, by matrices at these addresses. */
  const sideBySide = (...matrices: number[]): Pick<Product, 'a' | 'b'>[] =>
    [[0, 8], [16, 4], [24, 12]].map(([address, columns], i) => ({ a: bf16(address, 2, columns, 24), b: bf16(matrices[i], columns, 6, 8) }));
  it.each<[string, Pick<Product, 'a' | 'b'>[], number[]]>([
    ['columns side by side and matrices one after the other are one sum', sideBySide(2048, 2176, 2240), [24]],
    ['a matrix elsewhere starts a product of its own', sideBySide(2048, 4096, 4160), [8, 16]],
    ['matrices of their own are summed one by one', [{ a: bf16(0, 1, 8), b: bf16(2048, 8, 6, 8) }, { a: bf16(16, 1, 8), b: bf16(2176, 8, 6, 8) }], [8, 8]],
  ])('%s', (_name, terms, inner) => {
    for (const beta of [0, 1]) {
      const into = { ...out, rows: terms[0].a.rows };
      const { calls, memory } = run((backend) => multiplySum(backend, terms, into, beta));
      expect(calls.map(({ a }) => a.columns)).toEqual(inner);
      expect(memory).toEqual(run((backend) => terms.forEach((term, i) => backend.multiply({ ...term, out: into, beta: i > 0 ? 1 : beta }))).memory);
    }
  });
});
