/* Kernels that only move values; bound by memory bandwidth. They work on raw units of 1, 2 or 4 bytes, whatever the format. */
import { ceilDiv, formatBytes, formatType, type CudaProgram, type Format } from '../program.js';

const THREADS = 256;
const unit = (format: Format) => ({ 1: 'u8', 2: 'u16', 4: 'u32' })[formatBytes[format]]!;

/** out (contiguous, `shape`) from in at offset + Σ index · stride: transpose, slice, reverse and broadcast. Args: out, in, size, offset, shape, strides (i64 each). */
export const stridedCopyProgram = (format: Format, rank: number, size: number): CudaProgram => ({
  key: `strided_copy_${formatBytes[format]}_r${rank}`,
  entry: 'strided_copy',
  grid: [ceilDiv(size, THREADS), 1, 1],
  block: [THREADS, 1, 1],
  source: () => /* cuda */ `
extern "C" __global__ void strided_copy(${unit(format)}* out, const ${unit(format)}* in, i64 size, i64 offset${Array.from({ length: rank }, (_, i) => `, i64 n${i}`).join('')}${Array.from({ length: rank }, (_, i) => `, i64 s${i}`).join('')}) {
  i64 at = (i64)blockIdx.x * ${THREADS} + threadIdx.x;
  if (at >= size) return;
  i64 rest = at, from = offset;
  ${Array.from({ length: rank }, (_, i) => rank - 1 - i).map((d) => `from += rest % n${d} * s${d}; rest /= n${d};`).join('\n  ')}
  out[at] = in[from];
}`,
});

/** Rows of `columns` values into rows of a wider matrix. Args: out, in, size, columns, outStride, outOffset. */
export const placeRowsProgram = (format: Format, size: number): CudaProgram => ({
  key: `place_rows_${formatBytes[format]}`,
  entry: 'place_rows',
  grid: [ceilDiv(size, THREADS), 1, 1],
  block: [THREADS, 1, 1],
  source: () => /* cuda */ `
extern "C" __global__ void place_rows(${unit(format)}* out, const ${unit(format)}* in, i64 size, i64 columns, i64 outStride, i64 outOffset) {
  i64 at = (i64)blockIdx.x * ${THREADS} + threadIdx.x;
  if (at < size) out[at / columns * outStride + outOffset + at % columns] = in[at];
}`,
});

/** out[batch, outer, i, inner] = in[batch, outer, indices[batch, i], inner]; an index out of range gives zeros. Args: out, in, indices, size, outer, count, inner, limit. */
export const gatherProgram = (format: Format, size: number): CudaProgram => ({
  key: `gather_${formatBytes[format]}`,
  entry: 'gather',
  grid: [ceilDiv(size, THREADS), 1, 1],
  block: [THREADS, 1, 1],
  source: () => /* cuda */ `
extern "C" __global__ void gather(${unit(format)}* out, const ${unit(format)}* in, const int* indices, i64 size, i64 outer, i64 count, i64 inner, i64 limit) {
  i64 at = (i64)blockIdx.x * ${THREADS} + threadIdx.x;
  if (at >= size) return;
  i64 i = at % inner, row = at / inner % count, place = at / inner / count, batch = place / outer;
  i64 index = indices[batch * count + row];
  out[at] = index < 0 || index >= limit ? (${unit(format)})0 : in[(place * limit + index) * inner + i];
}`,
});

/** out[i, j] = j == indices[i] ? on : off. Args: out, indices, size, depth, on, off. */
export const oneHotProgram = (to: Format, size: number): CudaProgram => ({
  key: `one_hot_${to}`,
  entry: 'one_hot',
  grid: [ceilDiv(size, THREADS), 1, 1],
  block: [THREADS, 1, 1],
  source: () => /* cuda */ `
extern "C" __global__ void one_hot(${formatType[to]}* out, const int* indices, i64 size, int depth, float on, float off) {
  i64 at = (i64)blockIdx.x * ${THREADS} + threadIdx.x;
  if (at < size) out[at] = Store<${formatType[to]}>::of(at % depth == indices[at / depth] ? on : off);
}`,
});
