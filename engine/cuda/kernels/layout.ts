import { backend_util, slice_util, util, type KernelConfig, type TensorInfo } from '@tensorflow/tfjs-core';
import { cudaKernel, type CudaBackend } from '../backend.js';
import { CudaError } from '../cuda-error.js';
import { formatBytes } from '../program.js';
import { gatherProgram, oneHotProgram, placeRowsProgram, stridedCopyProgram } from '../programs/layout.cu.js';
import { segmentSumProgram } from '../programs/segment-sum.cu.js';
import { broadcastStrides } from './elementwise.js';

type Unary = { x: TensorInfo };

const size = ({ shape }: { shape: number[] }) => util.sizeFromShape(shape);

/** A copy whose element at each index is x's at offset + Σ index · stride. */
export function stridedCopy(backend: CudaBackend, x: TensorInfo, shape: number[], strides: number[], offset = 0): TensorInfo {
  const out = backend.make(shape, x.dtype, backend.format(x), 'a copy');
  const count = size(out);
  backend.launch(stridedCopyProgram(backend.format(x), shape.length, count), [
    backend.pointer(out), backend.pointer(x), { i64: count }, { i64: offset }, ...shape.map((n) => ({ i64: n })), ...strides.map((n) => ({ i64: n })),
  ]);
  return out;
}

/** x with its axes in another order; a second handle where the order in memory stays the same. */
export function transposed(backend: CudaBackend, x: TensorInfo, order: readonly number[]): TensorInfo {
  const shape = order.map((axis) => x.shape[axis]);
  const moved = order.filter((axis) => x.shape[axis] !== 1);
  if (moved.every((axis, i) => i === 0 || axis > moved[i - 1])) return backend.view(x, shape);
  const strides = rowMajorStrides(x.shape);
  return stridedCopy(backend, x, shape, order.map((axis) => strides[axis]));
}

export function rowMajorStrides(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length).fill(1);
  for (let i = shape.length - 2; i >= 0; i--) strides[i] = strides[i + 1] * shape[i + 1];
  return strides;
}

/** The part of x that begins at `begin`; rows are copied whole where only the first axis is cut. */
export function sliced(backend: CudaBackend, x: TensorInfo, begin: readonly number[], shape: number[]): TensorInfo {
  const strides = rowMajorStrides(x.shape);
  const offset = begin.reduce((sum, index, axis) => sum + index * strides[axis], 0);
  if (shape.every((n, axis) => axis === 0 || n === x.shape[axis])) {
    if (shape[0] === x.shape[0]) return backend.view(x, shape);
    const out = backend.make(shape, x.dtype, backend.format(x), 'Slice');
    const bytes = formatBytes[backend.format(x)];
    if (size(out) > 0) backend.device.copy(backend.address(out), backend.address(x) + offset * bytes, size(out) * bytes);
    return out;
  }
  return stridedCopy(backend, x, shape, strides, offset);
}

/** Tensors side by side along an axis, in the widest of their formats. */
export function concatenated(backend: CudaBackend, inputs: readonly TensorInfo[], axis: number): TensorInfo {
  const parts = inputs.filter((info) => size(info) > 0);
  if (parts.length === 0) return backend.make(backend_util.computeOutShape(inputs.map(({ shape }) => shape), axis), inputs[0].dtype);
  if (parts.length === 1) return backend.view(parts[0], parts[0].shape);
  const formats = new Set(parts.map((part) => backend.format(part)));
  const format = formats.size === 1 ? [...formats][0] : 'f32';
  const shape = backend_util.computeOutShape(parts.map((part) => part.shape), axis);
  const out = backend.make(shape, parts[0].dtype, format, 'Concat');
  const inner = util.sizeFromShape(shape.slice(axis + 1));
  let offset = 0;
  for (const part of parts) {
    const columns = part.shape[axis] * inner;
    backend.with(format, [part], (converted) => {
      if (columns === size(part)) backend.device.copy(backend.address(out) + offset * formatBytes[format], backend.address(converted), columns * formatBytes[format]);
      else {
        backend.launch(placeRowsProgram(format, size(part)), [
          backend.pointer(out), backend.pointer(converted), { i64: size(part) }, { i64: columns }, { i64: shape[axis] * inner }, { i64: offset },
        ]);
      }
    });
    offset += columns;
  }
  return out;
}

export const layoutKernels: KernelConfig[] = [
  cudaKernel<Unary>('Identity', ({ inputs: { x }, backend }) => backend.view(x, x.shape)),
  cudaKernel<Unary, { shape: number[] }>('Reshape', ({ inputs: { x }, attrs, backend }) => {
    const shape = util.inferFromImplicitShape(attrs.shape, size(x));
    if (util.sizeFromShape(shape) !== size(x)) throw new CudaError('bad_shape', `reshape: expected ${size(x)} values, got shape [${shape.join(',')}]`);
    return backend.view(x, shape);
  }),
  cudaKernel<{ input: TensorInfo }, { dim: number }>('ExpandDims', ({ inputs: { input }, attrs: { dim }, backend }) => {
    const axis = dim < 0 ? dim + input.shape.length + 1 : dim;
    return backend.view(input, [...input.shape.slice(0, axis), 1, ...input.shape.slice(axis)]);
  }),
  cudaKernel<Unary, { perm: number[] }>('Transpose', ({ inputs: { x }, attrs: { perm }, backend }) => transposed(backend, x, perm)),
  cudaKernel<Unary, { begin: number | number[]; size: number | number[] }>('Slice', ({ inputs: { x }, attrs, backend }) => {
    const [begin, extent] = slice_util.parseSliceParams(x as never, attrs.begin, attrs.size);
    slice_util.assertParamsValid(x as never, begin, extent);
    return sliced(backend, x, begin, extent);
  }),
  cudaKernel<Unary, { begin: number[]; end: number[]; strides: number[]; beginMask: number; endMask: number; ellipsisMask: number; newAxisMask: number; shrinkAxisMask: number }>(
    'StridedSlice',
    ({ inputs: { x }, attrs, backend }) => {
      const info = slice_util.sliceInfo(x.shape, attrs.begin, attrs.end, attrs.strides, attrs.beginMask, attrs.endMask, attrs.ellipsisMask, attrs.newAxisMask, attrs.shrinkAxisMask);
      const strides = rowMajorStrides(x.shape);
      const offset = info.begin.reduce((sum, index, axis) => sum + index * strides[axis], 0);
      const copy = stridedCopy(backend, x, slice_util.computeOutShape(info.begin, info.end, info.strides), info.strides.map((step, axis) => step * strides[axis]), offset);
      const out = backend.view(copy, info.finalShape);
      backend.free(copy);
      return out;
    },
  ),
  cudaKernel<TensorInfo[], { axis: number }>('Concat', ({ inputs, attrs, backend }) =>
    concatenated(backend, inputs, util.parseAxisParam(attrs.axis, inputs[0].shape)[0])),
  cudaKernel<TensorInfo[], { axis: number }>('Pack', ({ inputs, attrs: { axis }, backend }) => {
    const at = axis < 0 ? axis + inputs[0].shape.length + 1 : axis;
    const views = inputs.map((info) => backend.view(info, [...info.shape.slice(0, at), 1, ...info.shape.slice(at)]));
    const out = concatenated(backend, views, at);
    views.forEach((view) => backend.free(view));
    return out;
  }),
  cudaKernel<{ value: TensorInfo }, { axis: number }>('Unpack', ({ inputs: { value }, attrs, backend }) => {
    const [axis] = util.parseAxisParam(attrs.axis, value.shape);
    const rest = value.shape.filter((_, i) => i !== axis);
    return Array.from({ length: value.shape[axis] }, (_, index) => {
      const part = sliced(backend, value, value.shape.map((_, i) => (i === axis ? index : 0)), value.shape.map((n, i) => (i === axis ? 1 : n)));
      const out = backend.view(part, rest);
      backend.free(part);
      return out;
    });
  }),
  cudaKernel<Unary, { numOrSizeSplits: number | number[]; axis: number }>('SplitV', ({ inputs: { x }, attrs, backend }) => {
    const [axis] = util.parseAxisParam(attrs.axis, x.shape);
    let at = 0;
    return backend_util.prepareSplitSize(x as never, attrs.numOrSizeSplits, axis).map((extent) => {
      const part = sliced(backend, x, x.shape.map((_, i) => (i === axis ? at : 0)), x.shape.map((n, i) => (i === axis ? extent : n)));
      at += extent;
      return part;
    });
  }),
  cudaKernel<Unary, { reps: number[] }>('Tile', ({ inputs: { x }, attrs: { reps }, backend }) => {
    const split = x.shape.flatMap((n, i) => [reps[i], n]);
    const strides = rowMajorStrides(x.shape).flatMap((stride) => [0, stride]);
    const copy = stridedCopy(backend, x, split, strides);
    const out = backend.view(copy, x.shape.map((n, i) => n * reps[i]));
    backend.free(copy);
    return out;
  }),
  cudaKernel<Unary, { shape: number[] }>('BroadcastTo', ({ inputs: { x }, attrs: { shape }, backend }) => stridedCopy(backend, x, shape, broadcastStrides(x.shape, shape))),
  cudaKernel<Unary, { dims: number[] }>('Reverse', ({ inputs: { x }, attrs, backend }) => {
    const dims = new Set(util.parseAxisParam(attrs.dims, x.shape));
    const strides = rowMajorStrides(x.shape);
    const offset = x.shape.reduce((sum, n, i) => sum + (dims.has(i) ? (n - 1) * strides[i] : 0), 0);
    return stridedCopy(backend, x, x.shape, strides.map((stride, i) => (dims.has(i) ? -stride : stride)), offset);
  }),
  cudaKernel<{ x: TensorInfo; indices: TensorInfo }, { axis: number; batchDims: number }>('GatherV2', ({ inputs: { x, indices }, attrs, backend }) => {
    const [axis] = util.parseAxisParam(attrs.axis, x.shape);
    const { batchDims = 0 } = attrs;
    const shape = [...x.shape.slice(0, axis), ...indices.shape.slice(batchDims), ...x.shape.slice(axis + 1)];
    const out = backend.make(shape, x.dtype, backend.format(x), 'GatherV2');
    const outer = util.sizeFromShape(x.shape.slice(batchDims, axis)), count = util.sizeFromShape(indices.shape.slice(batchDims)), inner = util.sizeFromShape(x.shape.slice(axis + 1));
    backend.with('i32', [indices], (whole) =>
      backend.launch(gatherProgram(backend.format(x), size(out)), [
        backend.pointer(out), backend.pointer(x), backend.pointer(whole), { i64: size(out) }, { i64: outer }, { i64: count }, { i64: inner }, { i64: x.shape[axis] },
      ]));
    return out;
  }),
  cudaKernel<{ indices: TensorInfo }, { depth: number; onValue: number; offValue: number; dtype?: 'float32' | 'int32' | 'bool' }>('OneHot', ({ inputs: { indices }, attrs, backend }) => {
    const out = backend.make([...indices.shape, attrs.depth], attrs.dtype ?? 'int32', undefined, 'OneHot');
    backend.with('i32', [indices], (whole) =>
      backend.launch(oneHotProgram(backend.format(out), size(out)), [backend.pointer(out), backend.pointer(whole), { i64: size(out) }, attrs.depth, { f32: attrs.onValue }, { f32: attrs.offValue }]));
    return out;
  }),
  cudaKernel<{ x: TensorInfo; segmentIds: TensorInfo }, { numSegments: number }>('UnsortedSegmentSum', ({ inputs: { x, segmentIds }, attrs: { numSegments }, backend }) => {
    const count = size(segmentIds), columns = count === 0 ? util.sizeFromShape(x.shape.slice(1)) : size(x) / count;
    const out = backend.make([numSegments, ...x.shape.slice(segmentIds.shape.length)], x.dtype, backend.format(x), 'UnsortedSegmentSum');
    backend.with('i32', [segmentIds], (ids) =>
      backend.launch(segmentSumProgram(backend.format(x), backend.format(out), columns === 0 ? 0 : numSegments), [
        backend.pointer(out), backend.pointer(x), backend.pointer(ids), { i64: count }, { i64: columns },
      ]));
    return out;
  }),
];
