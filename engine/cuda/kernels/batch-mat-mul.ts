import { backend_util, util, type KernelConfig, type TensorInfo } from '@tensorflow/tfjs-core';
import { cudaKernel, type CudaBackend } from '../backend.js';
import type { Product } from '../cublas-lt.js';

interface Attrs {
  transposeA: boolean;
  transposeB: boolean;
}

/** a·b over batches: bf16 when both are, else float32. A batch of one is repeated against a larger one. */
export function batchMatMul(backend: CudaBackend, a: TensorInfo, b: TensorInfo, { transposeA, transposeB }: Attrs): TensorInfo {
  const [rowsA, columnsA] = a.shape.slice(-2), [rowsB, columnsB] = b.shape.slice(-2);
  const [rows, inner] = transposeA ? [columnsA, rowsA] : [rowsA, columnsA];
  const columns = transposeB ? rowsB : columnsB;
  const lead = backend_util.assertAndGetBroadcastShape(a.shape.slice(0, -2), b.shape.slice(0, -2));
  const batch = util.sizeFromShape(lead);
  const batchA = util.sizeFromShape(a.shape.slice(0, -2)), batchB = util.sizeFromShape(b.shape.slice(0, -2));
  const format = backend.format(a) === 'bf16' && backend.format(b) === 'bf16' ? 'bf16' : 'f32';
  const out = backend.make([...lead, rows, columns], 'float32', format, 'BatchMatMul');
  if (inner === 0) {
    backend.device.fill(backend.address(out), 0, util.sizeFromShape(out.shape) * (format === 'bf16' ? 2 : 4));
    return out;
  }
  if (util.sizeFromShape(out.shape) === 0) return out;
  backend.with(format, [a, b], (fa, fb) => {
    const product = (offsetA: number, offsetB: number, offsetOut: number, count: number): Product => ({
      a: { ...backend.matrix(fa, rowsA, columnsA), address: backend.address(fa) + offsetA, batchStride: batchA === 1 ? 0 : rowsA * columnsA },
      b: { ...backend.matrix(fb, rowsB, columnsB), address: backend.address(fb) + offsetB, batchStride: batchB === 1 ? 0 : rowsB * columnsB },
      out: { ...backend.matrix(out, rows, columns), address: backend.address(out) + offsetOut, batchStride: rows * columns },
      transposeA, transposeB, batch: count,
    });
    if ([1, batch].includes(batchA) && [1, batch].includes(batchB)) {
      backend.multiply(product(0, 0, 0, batch));
      return;
    }
    // Batches repeated along some axes only have no one stride: a product each.
    const bytes = format === 'bf16' ? 2 : 4;
    for (let i = 0; i < batch; i++) {
      const [ia, ib] = [a, b].map((info) => repeatedIndex(i, lead, info.shape.slice(0, -2)));
      backend.multiply(product(ia * rowsA * columnsA * bytes, ib * rowsB * columnsB * bytes, i * rows * columns * bytes, 1));
    }
  });
  return out;
}

/** Position in a tensor's own batch of an index into the broadcast batch. */
function repeatedIndex(index: number, lead: readonly number[], own: readonly number[]): number {
  let result = 0, stride = 1;
  for (let i = 1; i <= lead.length; i++) {
    const size = own[own.length - i] ?? 1;
    const at = index % lead[lead.length - i];
    index = Math.floor(index / lead[lead.length - i]);
    if (size > 1) result += at * stride;
    stride *= size;
  }
  return result;
}

export const productKernels: KernelConfig[] = [
  cudaKernel<{ a: TensorInfo; b: TensorInfo }, Attrs>('BatchMatMul', ({ inputs: { a, b }, attrs, backend }) => batchMatMul(backend, a, b, attrs)),
];
