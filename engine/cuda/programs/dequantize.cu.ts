/*
 * NF4 and int8 to bfloat16: reads a quarter or half of what it writes, bound by memory bandwidth. Eight neighbouring values at a time,
 * so that a warp's stores cover whole lines: with sixteen a thread, in two stores that each fill half of every sector, NF4 took twice
 * its bytes' time (1.5 of 3 TB/s on an H100).
 */
import { dynamicLevels } from '../../quant/dynamic-levels.js';
import { nf4Levels } from '../../quant/nf4.js';
import { ceilDiv, formatType, type CudaProgram, type Format } from '../program.js';
import { placeFactor } from './place-factor.cu.js';

const THREADS = 256;
/** Values that a thread writes side by side: where rows have gaps, their columns must be a multiple. */
export const DEQUANTIZED_TOGETHER = 8;
/** How often an NF4 thread does so: the tables are filled once for all. */
const ROUNDS = 4;

const bits = (values: ArrayLike<number>): string => Array.from(values, (value) => `0x${new Uint32Array(Float32Array.of(value).buffer)[0].toString(16)}u`).join(', ');
/** A float written so that the compiler reads the same bits. */
const literal = (value: number) => `__builtin_bit_cast(float, ${bits([value])})`;
const table = (space: string, name: string, values: ArrayLike<number>) => `${space} u32 ${name}Bits[${values.length}] = { ${bits(values)} };\n`;

/** The NF4 levels and the dynamic 8-bit levels, looked up from constant memory. */
export const nf4Tables = () => /* cuda */ `
${table('__constant__', 'nf4Level', nf4Levels)}${table('__constant__', 'dynamicLevel', dynamicLevels)}
__device__ __forceinline__ float nf4Scale(const float* absmax, const u8* codes, float offset, i64 block) {
  return codes ? __fadd_rn(__fmul_rn(__uint_as_float(dynamicLevelBits[codes[block]]), absmax[block >> 8]), offset) : absmax[block];
}`;

/** What the blocks beyond those of the values do: a branch's B goes into the room at the ends of the rows. */
const placeBeyond = (to: Format, perBlock: number) => to !== 'bf16' ? '' : `i64 valueBlocks = (size + ${perBlock - 1}) / ${perBlock};
  if (blockIdx.x >= valueBlocks) return placeFactor(out + columns, columns + gap, (int)(size / columns), room, b, rank, from, (int)(blockIdx.x - valueBlocks) * ${THREADS} + (int)threadIdx.x);
  `;
const placeParameters = 'int room, const float* b, int rank, int from';
/** @param placed how many rows of how many columns of room are filled */
const blocks = (size: number, perBlock: number, { rows, room }: { rows: number; room: number }): [number, number, number] =>
  [ceilDiv(size, perBlock) + ceilDiv(rows * (room / 8), THREADS), 1, 1];
const NOTHING_PLACED = { rows: 0, room: 0 };

/**
 * Args: out, codes (two a byte, the earlier in the high half), absmax, nested codes (null: absmax is one a block), offset, size, columns,
 * gap between rows, columns of room to fill, B [rows, rank], rank, B's first column. Only a bf16 matrix has its room filled.
 */
export const dequantizeNf4Program = (to: Format, size: number, placed = NOTHING_PLACED): CudaProgram => ({
  key: `dequantize_nf4_${to}`,
  entry: 'dequantize_nf4',
  grid: blocks(size, THREADS * DEQUANTIZED_TOGETHER * ROUNDS, placed),
  block: [THREADS, 1, 1],
  source: () => table('__device__ const', 'nf4Level', nf4Levels) + table('__device__ const', 'dynamicLevel', dynamicLevels) + placeFactor + /* cuda */ `
#define ROUND ${THREADS * DEQUANTIZED_TOGETHER}
extern "C" __global__ void __launch_bounds__(${THREADS}, 6) dequantize_nf4(${formatType[to]}* out, const u8* codes, const float* absmax, const u8* nested, float offset, i64 size, i64 columns, i64 gap, ${placeParameters}) {
  ${placeBeyond(to, THREADS * DEQUANTIZED_TOGETHER * ROUNDS)}// In shared memory: constant memory serves one address at a time.
  __shared__ float levels[16], dynamic[256];
  i64 first = (i64)blockIdx.x * ${ROUNDS} * ROUND + threadIdx.x * ${DEQUANTIZED_TOGETHER};
  u32 packed[${ROUNDS}]; float scales[${ROUNDS}]; u8 scaleCodes[${ROUNDS}];
  #pragma unroll
  for (int r = 0; r < ${ROUNDS}; r++) {
    i64 at = first + r * ROUND, block = at >> 6;
    if (at >= size) continue;
    packed[r] = *reinterpret_cast<const u32*>(codes + at / 2);
    scales[r] = absmax[nested ? block >> 8 : block];
    if (nested) scaleCodes[r] = nested[block];
  }
  dynamic[threadIdx.x] = __uint_as_float(dynamicLevelBits[threadIdx.x]);
  if (threadIdx.x < 16) levels[threadIdx.x] = __uint_as_float(nf4LevelBits[threadIdx.x]);
  __syncthreads();
  #pragma unroll
  for (int r = 0; r < ${ROUNDS}; r++) {
    i64 at = first + r * ROUND;
    if (at >= size) return;
    float scale = nested ? __fadd_rn(__fmul_rn(dynamic[scaleCodes[r]], scales[r]), offset) : scales[r];
    Pack<${formatType[to]}, 8> y;
    #pragma unroll
    for (int i = 0; i < 8; i++) y.v[i] = Store<${formatType[to]}>::of(__fmul_rn(levels[packed[r] >> (4 * i ^ 4) & 15], scale)); // the earlier of a byte's two in its high half
    // Fewer than 2^35 values. The last eight may pass the end: memory is handed out in units of 512 bytes.
    storePack(out + at + (gap ? (u32)(at >> 3) / (u32)(columns >> 3) * gap : 0), y);
  }
}`,
});

/** value = code · absmax[row] / 127. Args: out, codes, absmax, size, columns, gap between rows, then as for NF4. */
export const dequantizeInt8Program = (to: Format, size: number, placed = NOTHING_PLACED): CudaProgram => ({
  key: `dequantize_int8_${to}`,
  entry: 'dequantize_int8',
  grid: blocks(size, THREADS * DEQUANTIZED_TOGETHER, placed),
  block: [THREADS, 1, 1],
  source: () => placeFactor + /* cuda */ `
extern "C" __global__ void dequantize_int8(${formatType[to]}* out, const signed char* codes, const float* absmax, i64 size, i64 columns, i64 gap, ${placeParameters}) {
  ${placeBeyond(to, THREADS * DEQUANTIZED_TOGETHER)}i64 at = ((i64)blockIdx.x * ${THREADS} + threadIdx.x) * 8;
  const float inverse = ${literal(Math.fround(7.874015718698502e-3))};
  if (columns % 8 == 0 && at < size) {
    u32 row = (u32)(at >> 3) / (u32)(columns >> 3); // fewer than 2^35 values
    Pack<signed char, 8> packed = loadPack<8>(codes + at); Pack<${formatType[to]}, 8> y;
    float scale = absmax[row];
    #pragma unroll
    for (int i = 0; i < 8; i++) y.v[i] = Store<${formatType[to]}>::of(__fmul_rn(__fmul_rn((float)packed.v[i], scale), inverse));
    storePack(out + at + row * gap, y);
  } else for (int i = 0; i < 8 && at < size; i++, at++) out[at] = Store<${formatType[to]}>::of(__fmul_rn(__fmul_rn((float)codes[at], absmax[at / columns]), inverse));
}`,
});
