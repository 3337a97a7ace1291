import { backend_util, util, type KernelConfig, type TensorInfo } from '@tensorflow/tfjs-core';
import { cudaKernel, type CudaBackend } from '../backend.js';
import type { Format } from '../program.js';
import { argReduceProgram, cumulativeSumProgram, reduceProgram, softmaxProgram, type Reduction } from '../programs/reduce.cu.js';
import { transposed } from './layout.js';

type Unary = { x: TensorInfo };

/** Puts the axes to reduce last and hands over [rows, columns]. */
function withLastAxes<T>(backend: CudaBackend, x: TensorInfo, axes: number[], use: (x: TensorInfo, rows: number, columns: number) => T): T {
  const kept = x.shape.map((_, i) => i).filter((i) => !axes.includes(i));
  const moved = transposed(backend, x, [...kept, ...axes]);
  const columns = util.sizeFromShape(axes.map((axis) => x.shape[axis]));
  const result = use(moved, util.sizeFromShape(kept.map((axis) => x.shape[axis])), columns);
  backend.free(moved);
  return result;
}

function reduce(backend: CudaBackend, x: TensorInfo, axis: number | number[] | null, keepDims: boolean, reduction: Reduction, to: Format, factor: (columns: number) => number): TensorInfo {
  const axes = util.parseAxisParam(axis as number[], x.shape);
  const [shape] = backend_util.computeOutAndReduceShapes(x.shape, axes);
  const out = backend.make(keepDims ? backend_util.expandShapeToKeepDim(shape, axes) : shape, to === 'i32' ? 'int32' : to === 'u8' ? 'bool' : 'float32', to, 'a reduction');
  withLastAxes(backend, x, axes, (moved, rows, columns) =>
    backend.launch(reduceProgram(reduction, backend.format(x), to, rows, columns), [backend.pointer(out), backend.pointer(moved), { i64: rows }, { i64: columns }, { f32: factor(columns) }]));
  return out;
}

type ReduceAttrs = { axis: number | number[] | null; keepDims: boolean };

/** Sums of whole numbers stay whole; everything else is summed and given in float32. */
const sumFormat = (backend: CudaBackend, x: TensorInfo): Format => (backend.format(x) === 'i32' ? 'i32' : 'f32');

export const reductionKernels: KernelConfig[] = [
  cudaKernel<Unary, ReduceAttrs>('Sum', ({ inputs: { x }, attrs, backend }) => {
    if (backend.format(x) !== 'u8') return reduce(backend, x, attrs.axis, attrs.keepDims, 'sum', sumFormat(backend, x), () => 1);
    return backend.with('i32', [x], (whole) => reduce(backend, whole, attrs.axis, attrs.keepDims, 'sum', 'i32', () => 1));
  }),
  cudaKernel<Unary, ReduceAttrs>('Mean', ({ inputs: { x }, attrs, backend }) => reduce(backend, x, attrs.axis, attrs.keepDims, 'sum', 'f32', (columns) => 1 / columns)),
  cudaKernel<Unary, ReduceAttrs>('Prod', ({ inputs: { x }, attrs, backend }) => reduce(backend, x, attrs.axis, attrs.keepDims, 'prod', sumFormat(backend, x), () => 1)),
  cudaKernel<{ x: TensorInfo }, ReduceAttrs & { reductionIndices?: number | number[] }>('Max', ({ inputs: { x }, attrs, backend }) =>
    reduce(backend, x, attrs.axis ?? attrs.reductionIndices ?? null, attrs.keepDims, 'max', backend.format(x), () => 1)),
  cudaKernel<Unary, ReduceAttrs>('Min', ({ inputs: { x }, attrs, backend }) => reduce(backend, x, attrs.axis, attrs.keepDims, 'min', backend.format(x), () => 1)),
  cudaKernel<Unary, ReduceAttrs>('All', ({ inputs: { x }, attrs, backend }) => reduce(backend, x, attrs.axis, attrs.keepDims, 'all', 'u8', () => 1)),
  cudaKernel<Unary, ReduceAttrs>('Any', ({ inputs: { x }, attrs, backend }) => reduce(backend, x, attrs.axis, attrs.keepDims, 'any', 'u8', () => 1)),
  ...(['max', 'min'] as const).map((kind) =>
    cudaKernel<Unary, { axis: number }>(kind === 'max' ? 'ArgMax' : 'ArgMin', ({ inputs: { x }, attrs: { axis }, backend }) => {
      const axes = util.parseAxisParam(axis, x.shape);
      const [shape] = backend_util.computeOutAndReduceShapes(x.shape, axes);
      const out = backend.make(shape, 'int32', 'i32', 'ArgMax');
      withLastAxes(backend, x, axes, (moved, rows, columns) =>
        backend.launch(argReduceProgram(kind, backend.format(x), rows, columns), [backend.pointer(out), backend.pointer(moved), { i64: rows }, { i64: columns }]));
      return out;
    })),
  cudaKernel<{ logits: TensorInfo }>('Softmax', ({ inputs: { logits }, backend }) => softmax(backend, logits, false)),
  cudaKernel<{ logits: TensorInfo }>('LogSoftmax', ({ inputs: { logits }, backend }) => softmax(backend, logits, true)),
  cudaKernel<Unary, { axis: number; exclusive: boolean; reverse: boolean }>('Cumsum', ({ inputs: { x }, attrs, backend }) => {
    const [axis] = util.parseAxisParam(attrs.axis, x.shape);
    const order = [...x.shape.map((_, i) => i).filter((i) => i !== axis), axis];
    const moved = transposed(backend, x, order);
    const to = sumFormat(backend, x);
    const sums = backend.make(moved.shape, x.dtype, to, 'Cumsum');
    const rows = util.sizeFromShape(x.shape) / Math.max(1, x.shape[axis]);
    backend.launch(cumulativeSumProgram(backend.format(x), to, rows), [
      backend.pointer(sums), backend.pointer(moved), { i64: rows }, { i64: x.shape[axis] }, attrs.exclusive ? 1 : 0, attrs.reverse ? 1 : 0,
    ]);
    const out = transposed(backend, sums, x.shape.map((_, i) => order.indexOf(i)));
    backend.free(moved);
    backend.free(sums);
    return out;
  }),
];

function softmax(backend: CudaBackend, logits: TensorInfo, log: boolean): TensorInfo {
  const columns = logits.shape.at(-1)!, rows = columns === 0 ? 0 : util.sizeFromShape(logits.shape) / columns;
  const out = backend.make(logits.shape, 'float32', backend.format(logits) === 'bf16' ? 'bf16' : 'f32', 'Softmax');
  backend.launch(softmaxProgram(log, backend.format(logits), backend.format(out), rows), [backend.pointer(out), backend.pointer(logits), { i64: columns }]);
  return out;
}
