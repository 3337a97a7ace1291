/*
 * Weights as a file has them (float32, float16, bfloat16) to what engine/quant makes of them, bit for bit. Bound by memory bandwidth, but
 * far below the time that reading the file takes.
 */
import { nf4Levels } from '../../quant/nf4.js';
import { ceilDiv, type CudaProgram } from '../program.js';

/** How a file stores values. */
export type StoredDtype = 'f32' | 'f16' | 'bf16';

/** `stored` is the C++ type, `value` reads one. */
const reading = (dtype: StoredDtype) => /* cuda */ `
typedef ${dtype === 'f32' ? 'float' : dtype === 'bf16' ? 'bf16' : 'u16'} Stored;
__device__ __forceinline__ float value(Stored x) { ${dtype === 'f16' ? 'float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x)); return y;' : 'return toFloat(x);'} }
`;

const THREADS = 256;

/**
 * The first value that is not finite, as 4 · index + kind (1 NaN, 2 infinity, 3 -infinity), where it is less than what `found` holds.
 * Args: found (u64), in, size.
 */
export const findNonFiniteProgram = (dtype: StoredDtype, size: number): CudaProgram => ({
  key: `find_non_finite_${dtype}`,
  entry: 'find_non_finite',
  grid: [Math.min(ceilDiv(size, THREADS * 8), 4096), 1, 1],
  block: [THREADS, 1, 1],
  source: () => reading(dtype) + /* cuda */ `
extern "C" __global__ void find_non_finite(u64* found, const Stored* in, i64 size) {
  for (i64 i = (i64)blockIdx.x * ${THREADS} + threadIdx.x; i < size; i += (i64)gridDim.x * ${THREADS}) {
    float x = value(in[i]);
    if (x - x != 0.f) atomicMin(found, 4ull * i + (x != x ? 1 : x > 0.f ? 2 : 3));
  }
}`,
});

/** Args: out, in, size. */
export const convertStoredProgram = (dtype: StoredDtype, to: 'f32' | 'bf16', size: number): CudaProgram => ({
  key: `convert_${dtype}_${to}`,
  entry: 'convert',
  grid: [ceilDiv(size, THREADS), 1, 1],
  block: [THREADS, 1, 1],
  source: () => reading(dtype) + /* cuda */ `
extern "C" __global__ void convert(${to === 'f32' ? 'float' : 'bf16'}* out, const Stored* in, i64 size) {
  i64 i = (i64)blockIdx.x * ${THREADS} + threadIdx.x;
  if (i < size) out[i] = Store<${to === 'f32' ? 'float' : 'bf16'}>::of(value(in[i]));
}`,
});

/** A row's int8 codes and largest magnitude, as quantizeInt8. A block a row. Args: codes, absmax, in, columns. */
export const quantizeInt8Program = (dtype: StoredDtype, rows: number): CudaProgram => ({
  key: `quantize_int8_${dtype}`,
  entry: 'quantize_int8',
  grid: [rows, 1, 1],
  block: [THREADS, 1, 1],
  source: () => reading(dtype) + /* cuda */ `
extern "C" __global__ void quantize_int8(signed char* codes, float* absmax, const Stored* in, i64 columns) {
  const Stored* row = in + blockIdx.x * columns;
  float largest = 0.f;
  for (i64 i = threadIdx.x; i < columns; i += ${THREADS}) largest = fmaxf(largest, fabsf(value(row[i])));
  largest = blockMax(largest);
  if (threadIdx.x == 0) absmax[blockIdx.x] = largest;
  float scale = __fdiv_rn(127.f, largest);
  for (i64 i = threadIdx.x; i < columns; i += ${THREADS}) codes[blockIdx.x * columns + i] = largest == 0.f ? 0 : (signed char)__float2int_rn(__fmul_rn(value(row[i]), scale));
}`,
});

/** Blocks of 64 that a block of threads quantises, a warp each. */
const NF4_BLOCKS = THREADS / 32;
const bits = (value: number) => `0x${new Uint32Array(Float32Array.of(value).buffer)[0].toString(16)}u`;
const bounds = Array.from({ length: 15 }, (_, i) => Math.fround(Math.fround(nf4Levels[i] + nf4Levels[i + 1]) / 2));

/** Codes (two a byte) and largest magnitude of each block of 64, as quantizeNf4. Args: codes, absmax, in, count. */
export const quantizeNf4Program = (dtype: StoredDtype, count: number): CudaProgram => ({
  key: `quantize_nf4_${dtype}`,
  entry: 'quantize_nf4',
  grid: [ceilDiv(count, 64 * NF4_BLOCKS), 1, 1],
  block: [THREADS, 1, 1],
  source: () => reading(dtype) + /* cuda */ `
__constant__ u32 boundBits[15] = { ${bounds.map(bits).join(', ')} };
/** The number of bounds below: a value on a bound takes the lower level. */
__device__ __forceinline__ u32 codeOf(float x) {
  u32 code = 0;
  #pragma unroll
  for (int i = 0; i < 15; i++) code += x > __uint_as_float(boundBits[i]);
  return code;
}
extern "C" __global__ void quantize_nf4(u8* codes, float* absmax, const Stored* in, i64 count) {
  i64 block = (i64)blockIdx.x * ${NF4_BLOCKS} + (threadIdx.x >> 5);
  int lane = threadIdx.x & 31;
  i64 start = block * 64;
  if (start >= count) return;
  int size = (int)min((i64)64, count - start);
  float x = 2 * lane < size ? value(in[start + 2 * lane]) : 0.f, y = 2 * lane + 1 < size ? value(in[start + 2 * lane + 1]) : 0.f;
  float largest = warpMax(fmaxf(fabsf(x), fabsf(y)));
  // A whole block multiplies by the reciprocal, the last partial one divides: the two round differently.
  bool whole = size == 64;
  float divisor = fmaxf(largest, __uint_as_float(${bits(1e-38)})), reciprocal = __fdiv_rn(1.f, divisor);
  if (lane == 0) absmax[block] = whole ? largest : divisor;
  float p = whole ? __fmul_rn(x, reciprocal) : __fdiv_rn(x, divisor), q = whole ? __fmul_rn(y, reciprocal) : __fdiv_rn(y, divisor);
  u32 first = codeOf(fminf(fmaxf(p, -1.f), 1.f)), second = codeOf(fminf(fmaxf(q, -1.f), 1.f));
  // An odd count is padded with the level of zero; what is beyond has no codes.
  codes[start / 2 + lane] = 2 * lane >= size ? 0 : first << 4 | (2 * lane + 1 < size ? second : 7u);
}`,
});

/** Block scales in 8 bits, as nestAbsmax. A block of threads has 256 scales. Args: codes, absmax, scales, cells (the code of each of 65,536 cells), offset, count. */
export const nestAbsmaxProgram = (count: number): CudaProgram => ({
  key: 'nest_absmax',
  entry: 'nest_absmax',
  grid: [ceilDiv(count, 256), 1, 1],
  block: [256, 1, 1],
  source: () => /* cuda */ `
extern "C" __global__ void nest_absmax(u8* codes, float* absmax, const float* scales, const u8* cells, float offset, i64 count) {
  i64 i = (i64)blockIdx.x * 256 + threadIdx.x;
  float centred = i < count ? __fsub_rn(scales[i], offset) : 0.f;
  float largest = blockMax(fabsf(centred));
  if (threadIdx.x == 0) absmax[blockIdx.x] = largest;
  float scaled = __fmul_rn(centred, __fdiv_rn(1.f, largest));
  float clamped = scaled >= -1.f ? fminf(scaled, 1.f) : -1.f; // NaN, from a block of equal scales, counts as -1
  int cell = (int)__fadd_rn(__fmul_rn(__fmul_rn(__fadd_rn(clamped, 1.f), 0.5f), 65535.f), 0.5f);
  codes[i] = i < count ? cells[cell] : 0;
}`,
});
