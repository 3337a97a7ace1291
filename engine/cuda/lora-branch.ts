import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { DropoutOptions } from '../tensor/lora.js';
import type { FrozenWeight } from '../tensor/weight-types.js';
import type { CudaBackend } from './backend.js';
import type { MatrixOperand } from './cublas-lt.js';
import { dropoutAddProgram, dropoutArguments, dropoutProgram } from './programs/dropout.cu.js';
import { withWeight } from './weights.js';

/*
 * The low-rank branch beside a frozen product. All matrices are bf16 and accumulated in float32; the gradients of A and B are
 * float32. `first` is the number of x's first element in the dropout stream, for callers that work through rows in chunks.
 */

/** hidden [n, rank] = scale · dropout(x)·Aᵀ. */
export function loraDown(backend: CudaBackend, x: MatrixOperand, a: TensorInfo, scale: number, dropout: DropoutOptions | undefined, first = 0): TensorInfo {
  const { rows, columns: inner } = x, [rank] = a.shape;
  const hidden = backend.make([rows, rank], 'float32', 'bf16', 'a LoRA branch');
  withDropped(backend, x, dropout, first, (input) =>
    backend.with('bf16', [a], (down) =>
      backend.multiply({ a: input, b: backend.matrix(down, rank, inner), transposeB: true, out: backend.matrix(hidden, rows, rank), alpha: scale })));
  return hidden;
}

/** y [n, out] += hidden·Bᵀ. */
export function addLoraUp(backend: CudaBackend, y: MatrixOperand, hidden: TensorInfo, b: TensorInfo): void {
  const [rows, rank] = hidden.shape, [columns] = b.shape;
  backend.with('bf16', [b], (up) =>
    backend.multiply({ a: backend.matrix(hidden, rows, rank), b: backend.matrix(up, columns, rank), transposeB: true, out: y, beta: 1 }));
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
  dropout: DropoutOptions | undefined,
  { first = 0, accumulate = false } = {},
): TensorInfo {
  const { rows, columns } = dy, inner = x.columns, [, rank] = b.shape;
  const beta = accumulate ? 1 : 0;
  const dHidden = backend.make([rows, rank], 'float32', 'bf16', 'the gradient of a LoRA branch');
  if (rows === 0 && !accumulate) {
    for (const info of [dA, dB]) backend.device.fill(backend.address(info), 0, 4 * info.shape[0] * info.shape[1]);
    return dHidden;
  }
  backend.with('bf16', [b], (up) =>
    backend.multiply({ a: dy, b: backend.matrix(up, columns, rank), out: backend.matrix(dHidden, rows, rank), alpha: scale }));
  backend.multiply({ a: dy, transposeA: true, b: backend.matrix(hidden, rows, rank), out: backend.matrix(dB, columns, rank), beta });
  withDropped(backend, x, dropout, first, (input) =>
    backend.multiply({ a: backend.matrix(dHidden, rows, rank), transposeA: true, b: input, out: backend.matrix(dA, rank, inner), beta }));
  return dHidden;
}

/** dx [n, in] = dy·W and, with a branch, + dropout(dHidden·A). */
export function inputGradient(
  backend: CudaBackend,
  dx: MatrixOperand,
  dy: MatrixOperand,
  weight: FrozenWeight,
  branch: { dHidden: TensorInfo; a: TensorInfo } | undefined,
  dropout: DropoutOptions | undefined,
  first = 0,
): void {
  const { rows, columns: inner } = dx;
  withWeight(backend, weight, (w) => backend.multiply({ a: dy, b: w, out: dx }));
  if (!branch) return;
  const [rank] = branch.a.shape;
  backend.with('bf16', [branch.dHidden, branch.a], (dHidden, a) => {
    const product = { a: backend.matrix(dHidden, rows, rank), b: backend.matrix(a, rank, inner) };
    if (!dropout || dropout.rate === 0) {
      backend.multiply({ ...product, out: dx, beta: 1 });
      return;
    }
    const size = rows * inner;
    backend.scratch(2 * size, 'the gradient through dropout', (address) => {
      backend.multiply({ ...product, out: { ...dx, address } });
      backend.launch(dropoutAddProgram(size), [{ pointer: dx.address }, { pointer: address }, { i64: size }, { i64: first }, ...dropoutArguments(backend.recording?.drawCell ?? 0, dropout)]);
    });
  });
}

function withDropped(backend: CudaBackend, x: MatrixOperand, dropout: DropoutOptions | undefined, first: number, use: (input: MatrixOperand) => void): void {
  if (!dropout || dropout.rate === 0) return use(x);
  const size = x.rows * x.columns;
  backend.scratch(2 * size, 'dropped-out inputs', (address) => {
    backend.launch(dropoutProgram('bf16', 'bf16', size), [{ pointer: address }, { pointer: x.address }, { i64: size }, { i64: first }, ...dropoutArguments(backend.recording?.drawCell ?? 0, dropout)]);
    use({ ...x, address });
  });
}
