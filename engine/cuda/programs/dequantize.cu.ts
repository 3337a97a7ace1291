/* NF4 and int8 to bfloat16: reads a quarter or half of what it writes, bound by memory bandwidth. Sixteen neighbouring values a thread. */
import { dynamicLevels } from '../../quant/dynamic-levels.js';
import { nf4Levels } from '../../quant/nf4.js';
import { ceilDiv, formatType, type CudaProgram, type Format } from '../program.js';

const THREADS = 256;
const VALUES = 16;
/** Values that a thread writes side by side: where rows have gaps, their columns must be a multiple. */
export const DEQUANTIZED_TOGETHER = VALUES;

/** A float written so that the compiler reads the same bits. */
const literal = (value: number) => `__builtin_bit_cast(float, 0x${new Uint32Array(Float32Array.of(value).buffer)[0].toString(16)}u)`;
const table = (name: string, values: ArrayLike<number>) =>
  `__constant__ u32 ${name}Bits[${values.length}] = { ${Array.from(values, (value) => `0x${new Uint32Array(Float32Array.of(value).buffer)[0].toString(16)}u`).join(', ')} };\n`;

/** The NF4 levels and the dynamic 8-bit levels, looked up from constant memory. */
export const nf4Tables = () => /* cuda */ `
${table('nf4Level', nf4Levels)}${table('dynamicLevel', dynamicLevels)}
__device__ __forceinline__ float nf4Scale(const float* absmax, const u8* codes, float offset, i64 block) {
  return codes ? __fadd_rn(__fmul_rn(__uint_as_float(dynamicLevelBits[codes[block]]), absmax[block >> 8]), offset) : absmax[block];
}`;

/** Args: out, codes (two a byte, the earlier in the high half), absmax, nested codes (null: absmax is one a block), offset, size, columns, gap between rows. */
export const dequantizeNf4Program = (to: Format, size: number): CudaProgram => ({
  key: `dequantize_nf4_${to}`,
  entry: 'dequantize_nf4',
  grid: [ceilDiv(size, THREADS * VALUES), 1, 1],
  block: [THREADS, 1, 1],
  source: () => nf4Tables() + /* cuda */ `
extern "C" __global__ void dequantize_nf4(${formatType[to]}* out, const u8* codes, const float* absmax, const u8* nested, float offset, i64 size, i64 columns, i64 gap) {
  // Sixteen lanes a level: a shared table meets fewer conflicts than constant memory, which serves one address at a time.
  __shared__ float levels[16];
  if (threadIdx.x < 16) levels[threadIdx.x] = __uint_as_float(nf4LevelBits[threadIdx.x]);
  __syncthreads();
  i64 at = ((i64)blockIdx.x * ${THREADS} + threadIdx.x) * ${VALUES};
  if (at >= size) return;
  float scale = nf4Scale(absmax, nested, offset, at >> 6);
  Pack<u8, 8> packed = loadPack<8>(codes + at / 2);
  Pack<${formatType[to]}, 8> low, high;
  #pragma unroll
  for (int i = 0; i < 8; i++) {
    ${formatType[to]} first = Store<${formatType[to]}>::of(__fmul_rn(levels[packed.v[i] >> 4], scale)), second = Store<${formatType[to]}>::of(__fmul_rn(levels[packed.v[i] & 15], scale));
    if (i < 4) { low.v[2 * i] = first; low.v[2 * i + 1] = second; } else { high.v[2 * i - 8] = first; high.v[2 * i - 7] = second; }
  }
  if (gap) out += (u32)(at >> 4) / (u32)(columns >> 4) * gap; // fewer than 2^36 values
  if (at + ${VALUES} <= size) { storePack(out + at, low); storePack(out + at + 8, high); }
  else for (int i = 0; i < ${VALUES} && at + i < size; i++) out[at + i] = i < 8 ? low.v[i] : high.v[i - 8];
}`,
});

/** value = code · absmax[row] / 127. Args: out, codes, absmax, size, columns, gap between rows. */
export const dequantizeInt8Program = (to: Format, size: number): CudaProgram => ({
  key: `dequantize_int8_${to}`,
  entry: 'dequantize_int8',
  grid: [ceilDiv(size, THREADS * 8), 1, 1],
  block: [THREADS, 1, 1],
  source: () => /* cuda */ `
extern "C" __global__ void dequantize_int8(${formatType[to]}* out, const signed char* codes, const float* absmax, i64 size, i64 columns, i64 gap) {
  i64 at = ((i64)blockIdx.x * ${THREADS} + threadIdx.x) * 8;
  const float inverse = ${literal(Math.fround(7.874015718698502e-3))};
  if (at + 8 <= size) {
    Pack<signed char, 8> packed = loadPack<8>(codes + at); Pack<${formatType[to]}, 8> y;
    #pragma unroll
    for (int i = 0; i < 8; i++) y.v[i] = Store<${formatType[to]}>::of(__fmul_rn(__fmul_rn((float)packed.v[i], absmax[(at + i) / columns]), inverse));
    storePack(out + at + (gap ? at / columns * gap : 0), y);
  } else for (; at < size; at++) out[at] = Store<${formatType[to]}>::of(__fmul_rn(__fmul_rn((float)codes[at], absmax[at / columns]), inverse));
}`,
});
