import { strideOf, type CublasLt, type MatrixOperand, type Product } from './cublas-lt.js';
import { formatBytes } from './program.js';

/*
 * Products that one call can do, told by where their operands lie: fewer launches, whose last tiles leave less of the card idle.
 */

/** Bytes that every matrix of a batch is aligned to when the first is: the widest loads of the library. */
const ALIGNMENT = 16;

/** Does the products in their order. Neighbours that differ in the places of b and out alone, each as far from the one before, are one batch. */
export function multiplyEach(backend: Pick<CublasLt, 'multiply'>, jobs: readonly Product[]): void {
  for (let first = 0, end = 1; first < jobs.length; first = end++) {
    const from = jobs[first], steps = { b: 0, out: 0 };
    for (; end < jobs.length && areAlike(from, jobs[end]); end++) {
      const [b, out] = (['b', 'out'] as const).map((name) => distance(jobs[end - 1][name], jobs[end][name]));
      if (!b || !out || (end - first > 1 && (b !== steps.b || out !== steps.out))) break;
      Object.assign(steps, { b, out });
    }
    const batch = end - first;
    const { a, b, out } = from;
    backend.multiply(batch === 1 ? from : { ...from, a: { ...a, batchStride: 0 }, b: { ...b, batchStride: steps.b }, out: { ...out, batchStride: steps.out }, batch });
  }
}

/** out = Σ a·b + beta · out. Neighbours whose a are neighbouring columns of one matrix, and whose b are neighbouring rows of one, are one product. */
export function multiplySum(backend: Pick<CublasLt, 'multiply'>, terms: readonly Pick<Product, 'a' | 'b'>[], out: MatrixOperand, beta: number): void {
  for (let first = 0, end = 1; first < terms.length; first = end++) {
    let { a, b } = terms[first];
    for (; end < terms.length && continues(a, terms[end].a, 'columns') && continues(b, terms[end].b, 'rows'); end++) {
      a = { ...a, columns: a.columns + terms[end].a.columns };
      b = { ...b, rows: b.rows + terms[end].b.rows };
    }
    backend.multiply({ a, b, out, beta: first > 0 ? 1 : beta });
  }
}

/** Whether a matrix goes on with another's columns or rows. */
function continues(from: MatrixOperand, to: MatrixOperand, along: 'rows' | 'columns'): boolean {
  const { address, format, rows, columns } = from, stride = strideOf(from), across = along === 'rows' ? 'columns' : 'rows';
  if (to.format !== format || to[across] !== from[across] || strideOf(to) !== stride) return false;
  if (along === 'columns' && columns + to.columns > stride) return false;
  return to.address === address + formatBytes[format] * (along === 'rows' ? rows * stride : columns);
}

/** Whether products, of which none is a batch or reads an addend, differ in the addresses of b and out at most. */
function areAlike(...products: [Product, Product]): boolean {
  const shape = (matrix: MatrixOperand): string => [matrix.format, matrix.rows, matrix.columns, strideOf(matrix)].join();
  const [one, other] = products.map(({ a, b, out, transposeA = false, transposeB = false, alpha = 1, beta = 0 }) =>
    [a.address, shape(a), shape(b), shape(out), transposeA, transposeB, alpha, beta].join(' '));
  return one === other && products.every(({ addend, batch = 1 }) => addend === undefined && batch === 1);
}

/** Elements from one matrix to the next that lies behind it and may be of a batch with it; else undefined. */
function distance(from: MatrixOperand, to: MatrixOperand): number | undefined {
  const { address, format, rows, columns } = from, bytes = to.address - address;
  return rows > 0 && bytes >= formatBytes[format] * ((rows - 1) * strideOf(from) + columns) && bytes % ALIGNMENT === 0 ? bytes / formatBytes[format] : undefined;
}
