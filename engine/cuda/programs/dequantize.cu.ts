/*
 * NF4 and int8 to bfloat16: reads a quarter or half of what it writes, bound by memory bandwidth. Eight neighbouring values at a time,
 * so that a warp's stores cover whole lines: with sixteen a thread, in two stores that each fill half of every sector, NF4 took twice
 * its bytes' time (1.5 of 3 TB/s on an H100).
 */
import { dynamicLevels } from '../../quant/dynamic-levels.js';
import { nf4Block, nf4Levels } from '../../quant/nf4.js';
import { ceilDiv, formatType, type CudaProgram, type Format } from '../program.js';
import { each, pick } from './lora.cu.js';
import { placeFactor } from './place-factor.cu.js';

const THREADS = 256;
/** Values that a thread writes side by side: where rows have gaps, their columns must be a multiple. */
export const DEQUANTIZED_TOGETHER = 8;
/** How often an NF4 thread does so: the tables are filled once for all. */
const ROUNDS = 4;
/** Values whose scales share one absmax: 256 blocks of 64. A multiple of a block of threads' values. */
const NESTED = 256 * nf4Block;

const bits = (values: ArrayLike<number>): string => Array.from(values, (value) => `0x${new Uint32Array(Float32Array.of(value).buffer)[0].toString(16)}u`).join(', ');
/** A float written so that the compiler reads the same bits. */
const literal = (value: number) => `__builtin_bit_cast(float, ${bits([value])})`;
const table = (space: string, name: string, values: ArrayLike<number>) => `${space} u32 ${name}Bits[${values.length}] = { ${bits(values)} };\n`;

/**
 * Eight neighbouring values, always in stores of 16 bytes: that of a `Pack` of bfloat16 the compiler may split into four of
 * 4 bytes, each of which writes to as many sectors as the whole (NVRTC 13.0 did for a quarter of an NF4 matrix with gaps, and for int8).
 */
const storeEight = /* cuda */ `
__device__ __forceinline__ void storeFour(void* to, u32 a, u32 b, u32 c, u32 d) { asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};" :: "l"(to), "r"(a), "r"(b), "r"(c), "r"(d)); }
__device__ __forceinline__ void storeEight(bf16* to, const float (&y)[8]) { storeFour(to, packBf16(y[0], y[1]), packBf16(y[2], y[3]), packBf16(y[4], y[5]), packBf16(y[6], y[7])); }
__device__ __forceinline__ void storeEight(float* to, const float (&y)[8]) {
  for (int i = 0; i < 8; i += 4) storeFour(to + i, __float_as_uint(y[i]), __float_as_uint(y[i + 1]), __float_as_uint(y[i + 2]), __float_as_uint(y[i + 3]));
}
`;

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

/** A matrix of a launch. */
export interface Dequantized {
  /** Values. */
  size: number;
  /** How many rows of how many columns of room are filled. @default none */
  placed?: { rows: number; room: number };
}
const blocks = ({ size, placed: { rows, room } = { rows: 0, room: 0 } }: Dequantized, perBlock: number): number => ceilDiv(size, perBlock) + ceilDiv(rows * (room / 8), THREADS);

/**
 * Matrices of one width. Args: columns, gap between rows (a multiple of 8), columns of room to fill; then of each matrix: out, codes (two a
 * byte, the earlier in the high half), absmax, nested codes (null: absmax is one a block), offset, size, B [rows, rank], rank, B's first
 * column. Only bf16 matrices have their room filled.
 */
export const dequantizeNf4Program = (to: Format, matrices: readonly Dequantized[]): CudaProgram => ({
  key: `dequantize_nf4_${to}_${matrices.length}`,
  entry: 'dequantize_nf4',
  grid: [Math.max(...matrices.map((matrix) => blocks(matrix, THREADS * DEQUANTIZED_TOGETHER * ROUNDS))), 1, matrices.length],
  block: [THREADS, 1, 1],
  source: () => table('__device__ const', 'nf4Level', nf4Levels) + table('__device__ const', 'dynamicLevel', dynamicLevels) + placeFactor + storeEight + /* cuda */ `
extern "C" __global__ void __launch_bounds__(${THREADS}, 6) dequantize_nf4(i64 columns, i64 gap, int room, ${each(matrices.length, (m) =>
    `${formatType[to]}* out${m}, const u8* codes${m}, const float* absmax${m}, const u8* nested${m}, float offset${m}, i64 size${m}, const float* b${m}, int rank${m}, int from${m}`, ', ')}) {
  ${[[`${formatType[to]}*`, 'out'], ['const u8*', 'codes'], ['const float*', 'absmax'], ['const u8*', 'nested'], ['float', 'offset'], ['i64', 'size']].map(([type, name]) => pick(matrices.length, type, name)).join('\n  ')}
  // Places are counted in eights of values, of which there are fewer than 2^32.
  u32 units = (u32)((size + 7) >> 3), unitsOfRow = (u32)(columns >> 3), unitsOfGap = (u32)(gap >> 3);
  u32 valueBlocks = (units + ${THREADS * ROUNDS - 1}) / ${THREADS * ROUNDS};
  if (blockIdx.x >= valueBlocks) {
    ${to !== 'bf16' ? '' : `${[['const float*', 'b'], ['int', 'rank'], ['int', 'from']].map(([type, name]) => pick(matrices.length, type, name)).join(' ')}
    if (room) placeFactor(out + columns, columns + gap, (int)(units / unitsOfRow), room, b, rank, from, (int)(blockIdx.x - valueBlocks) * ${THREADS} + (int)threadIdx.x);`}
    return;
  }
  // In shared memory: constant memory serves one address at a time.
  __shared__ float levels[16], dynamic[256];
  u32 first = blockIdx.x * ${THREADS * ROUNDS} + threadIdx.x;
  // The scales of 256 blocks of 64 values share one absmax; a block of threads has 128 of them.
  float outer = nested ? absmax[blockIdx.x / ${NESTED / (THREADS * DEQUANTIZED_TOGETHER * ROUNDS)}] : 0.f;
  u32 packed[${ROUNDS}]; float scales[${ROUNDS}]; u8 scaleCodes[${ROUNDS}];
  #pragma unroll
  for (int r = 0; r < ${ROUNDS}; r++) {
    u32 unit = first + r * ${THREADS};
    if (unit >= units) continue;
    packed[r] = reinterpret_cast<const u32*>(codes)[unit];
    if (nested) scaleCodes[r] = nested[unit >> 3];
    else scales[r] = absmax[unit >> 3];
  }
  dynamic[threadIdx.x] = __uint_as_float(dynamicLevelBits[threadIdx.x]);
  if (threadIdx.x < 16) levels[threadIdx.x] = __uint_as_float(nf4LevelBits[threadIdx.x]);
  __syncthreads();
  #pragma unroll
  for (int r = 0; r < ${ROUNDS}; r++) {
    u32 unit = first + r * ${THREADS};
    if (unit >= units) return;
    float scale = nested ? __fadd_rn(__fmul_rn(dynamic[scaleCodes[r]], outer), offset) : scales[r], y[8];
    #pragma unroll
    for (int i = 0; i < 8; i++) y[i] = __fmul_rn(levels[packed[r] >> (4 * i ^ 4) & 15], scale); // the earlier of a byte's two in its high half
    // The last eight may pass the end: memory is handed out in units of 512 bytes.
    storeEight(out + (i64)(unit + (gap ? unit / unitsOfRow * unitsOfGap : 0)) * 8, y);
  }
}`,
});

/** value = code · absmax[row] / 127. Args: out, codes, absmax, size, columns, gap between rows, then as for NF4. */
export const dequantizeInt8Program = (to: Format, matrix: Dequantized): CudaProgram => ({
  key: `dequantize_int8_${to}`,
  entry: 'dequantize_int8',
  grid: [blocks(matrix, THREADS * DEQUANTIZED_TOGETHER), 1, 1],
  block: [THREADS, 1, 1],
  source: () => placeFactor + storeEight + /* cuda */ `
extern "C" __global__ void dequantize_int8(${formatType[to]}* out, const signed char* codes, const float* absmax, i64 size, i64 columns, i64 gap, ${placeParameters}) {
  ${placeBeyond(to, THREADS * DEQUANTIZED_TOGETHER)}i64 at = ((i64)blockIdx.x * ${THREADS} + threadIdx.x) * 8;
  const float inverse = ${literal(Math.fround(7.874015718698502e-3))};
  if (columns % 8 == 0 && at < size) {
    u32 row = (u32)(at >> 3) / (u32)(columns >> 3); // fewer than 2^35 values
    Pack<signed char, 8> packed = loadPack<8>(codes + at);
    float scale = absmax[row], y[8];
    #pragma unroll
    for (int i = 0; i < 8; i++) y[i] = __fmul_rn(__fmul_rn((float)packed.v[i], scale), inverse);
    storeEight(out + at + row * gap, y);
  } else for (int i = 0; i < 8 && at < size; i++, at++) out[at] = Store<${formatType[to]}>::of(__fmul_rn(__fmul_rn((float)codes[at], absmax[at / columns]), inverse));
}`,
});
