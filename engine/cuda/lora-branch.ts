import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { DropoutOptions } from '../tensor/lora.js';
import type { FrozenWeight } from '../tensor/weight-types.js';
import type { CudaBackend } from './backend.js';
import type { MatrixOperand } from './cublas-lt.js';
import { ceilDiv, type KernelArgument } from './program.js';
import { dropoutAddProgram, dropoutArguments, dropoutProgram } from './programs/dropout.cu.js';
import { loraDownProgram, loraOuterProgram, loraSpreadProgram, loraSumProgram, MAX_RANK, outerRows, type Factor, type Masking } from './programs/lora.cu.js';
import { withWeight } from './weights.js';

/*
 * The low-rank branch beside a frozen product. Tall matrices are bf16 and accumulated in float32; the gradients of A and B are
 * float32. Kernels of our own serve the usual shapes (rank up to 16, widths that are multiples of 8), cublasLt all others.
 * `first` is the number of x's first element in the dropout stream, for callers that work through rows in chunks.
 */

/** The branch's dropout, and where in its stream x begins. */
export interface BranchDropout {
  options: DropoutOptions | undefined;
  /** @default 0 */
  first?: number;
}

const isFused = (rank: number, width: number, { first = 0 }: BranchDropout): boolean => rank <= MAX_RANK && width % 8 === 0 && first % 4 === 0;
const isDropping = ({ options }: BranchDropout): boolean => options !== undefined && options.rate > 0;
const drawArguments = (backend: CudaBackend, { options }: BranchDropout): KernelArgument[] => dropoutArguments(backend.recording?.drawCell ?? 0, options);

/** The keep bits of a branch's input, kept with the branch's low-rank tensor. */
const KEEP_BITS = "dropout's keep bits";

/** How to mask for a low-rank tensor: by its bits where it has them. */
function maskingOf(backend: CudaBackend, low: TensorInfo, dropout: BranchDropout): { masking: Masking; bits: { pointer: number } } {
  const block = isDropping(dropout) ? backend.findCompanion(low, KEEP_BITS) : undefined;
  return { masking: !isDropping(dropout) ? 'all' : block ? 'bits' : 'draw', bits: { pointer: block?.address ?? 0 } };
}

/** hidden [n, rank] = scale · dropout(x)·Aᵀ. */
export const loraDown = (backend: CudaBackend, x: MatrixOperand, a: TensorInfo, scale: number, dropout: BranchDropout): TensorInfo => down(backend, x, 'a', a, scale, dropout);

/** scale · dropout(x)·Aᵀ or scale · x·B. */
function down(backend: CudaBackend, x: MatrixOperand, factor: Factor, matrix: TensorInfo, scale: number, dropout: BranchDropout): TensorInfo {
  const { rows, columns: inner } = x;
  const rank = factor === 'a' ? matrix.shape[0] : matrix.shape[1];
  const low = backend.make([rows, rank], 'float32', 'bf16', 'a LoRA branch');
  // Few long rows would leave most of the device idle: our kernel has a block for 16 rows, cublasLt splits the sum.
  const isWide = rows < 1024 && inner > 16384;
  if (isFused(rank, inner, dropout) && !isWide) {
    // The backward pass reads the bits instead of drawing again; they go when the branch's tensor does.
    const bits = isDropping(dropout) ? backend.companion(low, KEEP_BITS, (rows * inner) / 8, () => undefined).address : 0;
    backend.with('f32', [matrix], (w) =>
      backend.launch(loraDownProgram(factor, rank, isDropping(dropout), rows), [
        backend.pointer(low), { pointer: bits }, { pointer: x.address }, backend.pointer(w), { i64: rows }, inner, { f32: scale }, { i64: dropout.first ?? 0 }, ...drawArguments(backend, dropout),
      ]));
    return low;
  }
  withDropped(backend, x, dropout, (input) =>
    backend.with('bf16', [matrix], (w) =>
      backend.multiply({ a: input, b: backend.matrix(w, w.shape[0], w.shape[1]), transposeB: factor === 'a', out: backend.matrix(low, rows, rank), alpha: scale })));
  return low;
}

/**
 * out [n, width] = x·op(W) + dropout(low·factor): the frozen product and the branch's share. Our kernel writes the branch first
 * and the product adds to it, so that `out` is read and written once less.
 */
function productWithBranch(backend: CudaBackend, out: MatrixOperand, low: TensorInfo, factor: Factor, matrix: TensorInfo, dropout: BranchDropout, product: (beta: number) => void): void {
  const { rows, columns: width } = out, [, rank] = low.shape;
  if (out.format === 'bf16' && isFused(rank, width, dropout)) {
    const { masking, bits } = maskingOf(backend, low, dropout);
    backend.with('f32', [matrix], (w) => backend.with('bf16', [low], (bf16) =>
      backend.launch(loraSpreadProgram(factor, rank, masking, rows, width), [
        { pointer: out.address }, bits, backend.pointer(bf16), backend.pointer(w), { i64: rows }, width, { i64: dropout.first ?? 0 }, ...drawArguments(backend, dropout),
      ])));
    return product(1);
  }
  product(0);
  backend.with('bf16', [low, matrix], (bf16, w) => {
    const branch = { a: backend.matrix(bf16, rows, rank), b: backend.matrix(w, w.shape[0], w.shape[1]), transposeB: factor === 'b' };
    if (!isDropping(dropout)) return backend.multiply({ ...branch, out, beta: 1 });
    const size = rows * width;
    backend.scratch(2 * size, 'a branch before dropout', (address) => {
      backend.multiply({ ...branch, out: { ...out, address } });
      backend.launch(dropoutAddProgram(size), [{ pointer: out.address }, { pointer: address }, { i64: size }, { i64: dropout.first ?? 0 }, ...drawArguments(backend, dropout)]);
    });
  });
}

/** y [n, out] = x·Wᵀ + hidden·Bᵀ. */
export function linear(backend: CudaBackend, y: MatrixOperand, x: MatrixOperand, weight: FrozenWeight, branch?: { hidden: TensorInfo; b: TensorInfo }): void {
  const product = (beta: number) => withWeight(backend, weight, (w) => backend.multiply({ a: x, b: w, transposeB: true, out: y, beta }));
  if (branch) productWithBranch(backend, y, branch.hidden, 'b', branch.b, { options: undefined }, product);
  else product(0);
}

/** dx [n, in] = dy·W + dropout(dHidden·A). */
export function inputGradient(
  backend: CudaBackend,
  dx: MatrixOperand,
  dy: MatrixOperand,
  weight: FrozenWeight,
  branch: { dHidden: TensorInfo; a: TensorInfo } | undefined,
  dropout: BranchDropout,
): void {
  const product = (beta: number) => withWeight(backend, weight, (w) => backend.multiply({ a: dy, b: w, out: dx, beta }));
  if (branch) productWithBranch(backend, dx, branch.dHidden, 'a', branch.a, dropout, product);
  else product(0);
}

export interface LoraGradientOperands {
  /** [n, out] and [n, in], bf16. */
  dy: MatrixOperand;
  x: MatrixOperand;
  /** [n, rank] = scale · dropout(x)·Aᵀ, bf16. */
  hidden: TensorInfo;
  b: TensorInfo;
  /** Written to, or added to when `accumulate`; float32. */
  dA: TensorInfo;
  dB: TensorInfo;
}

/** dA = dHiddenᵀ·dropout(x) and dB = dyᵀ·hidden. @returns dHidden [n, rank] = scale · dy·B */
export function loraGradients(
  backend: CudaBackend,
  { dy, x, hidden, b, dA, dB }: LoraGradientOperands,
  scale: number,
  dropout: BranchDropout,
  accumulate = false,
): TensorInfo {
  const dHidden = down(backend, dy, 'b', b, scale, { options: undefined });
  outer(backend, 'b', dB, hidden, dy, { options: undefined }, accumulate);
  backend.moveCompanion(hidden, dHidden, KEEP_BITS);
  outer(backend, 'a', dA, dHidden, x, dropout, accumulate);
  return dHidden;
}

/** lowᵀ·dropout(x) into a gradient in A's layout [rank, width] or B's [width, rank]. */
function outer(backend: CudaBackend, factor: Factor, gradient: TensorInfo, low: TensorInfo, x: MatrixOperand, dropout: BranchDropout, accumulate: boolean): void {
  const { rows, columns: width } = x, [, rank] = low.shape;
  if (rows === 0) {
    if (!accumulate) backend.device.fill(backend.address(gradient), 0, 4 * rank * width);
    return;
  }
  if (isFused(rank, width, dropout)) {
    const perBlock = outerRows(rows), blocks = ceilDiv(rows, perBlock);
    const { masking, bits } = maskingOf(backend, low, dropout);
    backend.scratch(4 * blocks * rank * width, 'parts of a LoRA gradient', (parts) => {
      backend.launch(loraOuterProgram(rank, masking, rows, width), [
        { pointer: parts }, bits, backend.pointer(low), { pointer: x.address }, { i64: rows }, width, perBlock, { i64: dropout.first ?? 0 }, ...drawArguments(backend, dropout),
      ]);
      backend.launch(loraSumProgram(factor, rank, width), [backend.pointer(gradient), { pointer: parts }, blocks, width, accumulate ? 1 : 0]);
    });
    return;
  }
  const thin = backend.matrix(low, rows, rank), beta = accumulate ? 1 : 0;
  withDropped(backend, x, dropout, (wide) =>
    backend.multiply(
      factor === 'a'
        ? { a: thin, transposeA: true, b: wide, out: backend.matrix(gradient, rank, width), beta }
        : { a: wide, transposeA: true, b: thin, out: backend.matrix(gradient, width, rank), beta },
    ));
}

function withDropped(backend: CudaBackend, x: MatrixOperand, dropout: BranchDropout, use: (input: MatrixOperand) => void): void {
  if (!isDropping(dropout)) return use(x);
  const size = x.rows * x.columns;
  backend.scratch(2 * size, 'dropped-out inputs', (address) => {
    backend.launch(dropoutProgram('bf16', 'bf16', size), [{ pointer: address }, { pointer: x.address }, { i64: size }, { i64: dropout.first ?? 0 }, ...drawArguments(backend, dropout)]);
    use({ ...x, address });
  });
}
