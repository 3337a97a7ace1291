/*
 * The low-rank branches beside frozen products. Layers that share an input are worked on together: each kernel makes one pass over
 * the tall matrix for all of them, on tensor cores (m16n8, rank padded to 8), and is bound by memory bandwidth; where dropout is
 * drawn, Philox's integer arithmetic comes close. Tall matrices are bf16 with rows of a multiple of 8 values, the low-rank ones
 * float32 as they are trained and rounded to bf16 on the way.
 */
import { DROPOUT_SPAN } from '../../tensor/dropout-rate.js';
import { ceilDiv, type CudaProgram } from '../program.js';
import { dropoutDraws } from './dropout.cu.js';
import { MULTIPROCESSORS, PART_COLUMNS, partBlocks, stagesOf, type PartBlocks } from './part-blocks.js';
import { placeFactor } from './place-factor.cu.js';
import { gatedInput, gatedInputBytes } from './gated-input.cu.js';

/** Largest rank for these kernels; above it cublasLt is used. */
export const MAX_RANK = 64;
/** Most tiles of 8 ranks that one launch takes, over all of its members. */
export const MAX_TILES = 8;
export const rankTiles = (rank: number): number => ceilDiv(rank, 8);

/** Which matrix the branch is multiplied by: A [rank, inner] or B [inner, rank]. */
export type Factor = 'a' | 'b';

/** Bytes from one row of keep bits to the next: a bit for each value, in whole 16-byte units for each block of 128 columns. */
export const bitsPitch = (inner: number): number => ceilDiv(inner, 128) * 16;

export const each = (members: number, text: (member: number) => string, separator = '\n  '): string => Array.from({ length: members }, (_, m) => text(m)).join(separator);
/** `name` becomes member blockIdx.z's. */
const pick = (members: number, type: string, name: string): string => `${type} ${name} = ${name}0;${each(members, (m) => (m > 0 ? ` if (blockIdx.z == ${m}) ${name} = ${name}${m};` : ''), '')}`;

/** The ranks of a row pair's fragment: two neighbouring values as one word, zero beyond the rank. */
const lowPair = (rank: number, row: string, k: string, end: string) =>
  rank % 2 === 0
    ? `(${row} < ${end} && ${k} < ${rank} ? *reinterpret_cast<const u32*>(low + ${row} * ${rank} + ${k}) : 0u)`
    : `((u32)(${row} < ${end} && ${k} < ${rank} ? low[${row} * ${rank} + ${k}].bits : 0) | (u32)(${row} < ${end} && ${k} + 1 < ${rank} ? low[${row} * ${rank} + ${k} + 1].bits : 0) << 16)`;

export interface LoraDownShape {
  rank: number;
  members: number;
  dropout: boolean;
  /** The inner dimension is whole steps, and every row begins where a span of the dropout stream does: a block's draws belong to one thread. */
  whole: boolean;
  rows: number;
  inner: number;
  /** x is silu(gate) · up, which is made and written on the way. @default false */
  gated?: boolean;
}

/** Largest rate that `lora_down` draws for: its threshold must be a number as a half float. */
export const MAX_RATE = 31 / 32;

/** Columns of a warp's step: a thread has eight, and eight half a span on. */
const STEP = DROPOUT_SPAN;

/**
 * Tall inputs have blocks of 32 rows, which read the factors half as often: two blocks a multiprocessor where there are rows for them, else
 * one that is twice as large; three members' registers leave room for one of 12 warps. Short inputs need more warps to a block. An input
 * that is made takes registers and shared memory of its own: blocks of 16 rows, as many of which fit as have 24 warps. As few warps
 * share the inner dimension as do so in the same number of steps.
 */
const downShape = ({ rows, rank, members, inner, gated }: LoraDownShape) => {
  const tiles = members * rankTiles(rank), tall = !gated && rows >= 3072 && tiles <= 3 ? 2 : 1;
  const twice = tall === 2 && tiles <= 2 && rows > 1.5 * MULTIPROCESSORS * 32;
  const most = tall === 2 ? (twice ? 8 : tiles <= 2 ? 16 : 12) : tiles > 3 ? 8 : gated ? 12 : rows > 2048 ? 8 : 16;
  const steps = Math.max(1, ceilDiv(inner, STEP)), warps = ceilDiv(steps, ceilDiv(steps, most));
  const blocks = tiles > 2 ? 1 : Math.floor((gated && members === 1 ? 24 : 16) / Math.max(warps, 8));
  return { tall, warps, blocks };
};

/**
 * What `lora_down` makes of draws. `drawPair`: the words of eight neighbouring values and of the eight half a span on, `group` being the
 * place of the first in the stream, in eights. `keepMask`: ones in each half whose low 15 bits reach the threshold that both halves of
 * `thresholds` hold; as half floats such numbers are in the order of integers, denormal ones too, and above them are only those that are
 * not a number, which count as reaching: one instruction. `keepBits`: bits 0 to 7 and 8 to 15 for the two eights, of values with an
 * even place in the low half of the result and of the others in the high half. `joinRows`: two rows' bits in one word. `storeBits`: four
 * neighbouring threads deal out their rows' bytes, so that each writes the eight of one row (with 16 rows a block, half of them do).
 */
const downDraws = (whole: boolean): string => /* cuda */ `
__device__ __forceinline__ void drawPair(u32 (&drawn)[2][4], u32 group, u32 step, u32 stream, u32 key0, u32 key1) {
  ${whole
    ? `dropoutBlock(drawn[0], (u64)((group >> 1 & ~3u) | (group & 3u)), step, stream, key0, key1); // group's third bit is not set: one block has both
  #pragma unroll
  for (int p = 0; p < 4; p++) drawn[1][p] = rotateByte(drawn[0][p]);`
    : `#pragma unroll
  for (int s = 0; s < 2; s++, group += 4) {
    dropoutBlock(drawn[s], (u64)((group >> 1 & ~3u) | (group & 3u)), step, stream, key0, key1);
    #pragma unroll
    for (int p = 0; p < 4; p++) drawn[s][p] = group & 4u ? rotateByte(drawn[s][p]) : drawn[s][p];
  }`}
}
__device__ __forceinline__ u32 keepMask(u32 word, u32 thresholds) {
  u32 mask;
  asm("{ .reg .b32 draws; abs.f16x2 draws, %1; set.geu.u32.f16x2 %0, draws, %2; }" : "=r"(mask) : "r"(word), "r"(thresholds));
  return mask;
}
__device__ __forceinline__ u32 keepBits(const u32 (&mask)[2][4]) {
  u32 bits = 0;
  #pragma unroll
  for (int s = 0; s < 2; s++)
    #pragma unroll
    for (int p = 0; p < 4; p++) bits |= mask[s][p] & 0x20001u << (s * 8 + p * 2);
  return bits;
}
__device__ __forceinline__ u32 joinRows(u32 first, u32 second) { return __byte_perm(first, second, 0x5410) | __byte_perm(first, second, 0x7632); }
template <int TALL> __device__ __forceinline__ void storeBits(u8* to, const u32 (&keep)[TALL], int t) {
  // Bytes of keep[i]: the two eights of row g, of row g + 8. First even threads get the bytes of row g from odd ones, which get those of row g + 8.
  bool odd = t & 1, late = t & 2;
  u32 other = __shfl_xor_sync(0xffffffffu, __byte_perm(keep[0], keep[TALL - 1], odd ? 0x5410 : 0x7632), 1);
  u32 pairs[TALL];
  pairs[0] = __byte_perm(keep[0], other, odd ? 0x3524 : 0x5140); // each of the two eights of both threads
  if (TALL == 2) pairs[TALL - 1] = __byte_perm(keep[TALL - 1], other, odd ? 0x3726 : 0x7160);
  // Then, likewise, the first two threads the rows of keep[0].
  u32 own = late ? pairs[TALL - 1] : pairs[0];
  other = __shfl_xor_sync(0xffffffffu, late ? pairs[0] : pairs[TALL - 1], 2);
  Pack<u32, 2> row;
  row.v[0] = __byte_perm(own, other, late ? 0x1054 : 0x5410);
  row.v[1] = __byte_perm(own, other, late ? 0x3276 : 0x7632);
  if (TALL == 2 || !late) *reinterpret_cast<Pack<u32, 2>*>(to) = row;
}
`;

/**
 * For each member: out [rows, rank] = scale · dropout(x [rows, inner]) · aᵀ. A block owns 16 or 32 rows, its warps share the inner
 * dimension. Each thread reads 16 neighbouring bytes of a row, and 16 more half a step on, whose draws come of the same Philox block, and
 * takes them for the tensor core's scattered columns: the sum does not mind the order as long as both operands have the same. With dropout
 * the keep bits of x are left in `bits`. Where `room` is not null, out is written there too, in rows that are x's. Args: x (where it is
 * made: x, gate, up), rows, inner, x's stride, bits' pitch, first, threshold, step, key0, key1, draw, then for each member out, room,
 * bits, a, scale, stream.
 */
export const loraDownProgram = (shape: LoraDownShape): CudaProgram => {
  const { rank, members, dropout, whole, rows, gated = false } = shape;
  const tiles = rankTiles(rank), { tall, warps, blocks } = downShape(shape), width = members * tiles * 8 + 1, partsBytes = 4 * warps * 16 * tall * width;
  return {
    key: `lora_down_${rank}x${members}_${dropout ? 'drop' : 'all'}${whole ? '' : '_ends'}_${tall}x${warps}${gated ? '_gated' : ''}`,
    entry: 'lora_down',
    grid: [ceilDiv(rows, 16 * tall), 1, 1],
    block: [warps * 32, 1, 1],
    sharedBytes: gated ? Math.max(partsBytes, gatedInputBytes(tall, warps)) : partsBytes,
    source: () => (dropout ? dropoutDraws + downDraws(whole) : '') + (gated ? gatedInput.functions : '') + /* cuda */ `
extern "C" __global__ void __launch_bounds__(${warps * 32}, ${blocks}) lora_down(${gated ? gatedInput.parameters : 'const bf16* x'}, i64 rows, int inner, int stride, int pitch, i64 first, u32 threshold, u32 step, u32 key0, u32 key1, const u32* draw,
    ${each(members, (m) => `bf16* out${m}, bf16* room${m}, u8* bits${m}, const float* a${m}, float scale${m}, u32 stream${m}`, ',\n    ')}) {
  constexpr int TALL = ${tall}, WARPS = ${warps}, TILES = ${tiles}, MEMBERS = ${members}, WIDTH = ${width}, STEP = ${STEP};
  extern __shared__ __align__(16) float parts[]; // [WARPS][16 * TALL][WIDTH]
  const float* factors[MEMBERS] = { ${each(members, (m) => `a${m}`, ', ')} };
  ${dropout ? `u8* bits[MEMBERS] = { ${each(members, (m) => `bits${m}`, ', ')} };
  u32 streams[MEMBERS] = { ${each(members, (m) => `stream${m}`, ', ')} }, thresholds = threshold * 0x10001u;
  if (draw) { step = draw[0];
    #pragma unroll
    for (int m = 0; m < MEMBERS; m++) streams[m] += draw[1]; }` : ''}
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  i64 base = (i64)blockIdx.x * 16 * TALL;
  float sum[MEMBERS][TALL][TILES][4] = {};
  // Reads outside are led to valid places instead of being left out, so that no branch keeps the draws from overlapping: rows beyond the
  // last are not written in the end, nor are ranks; columns beyond the last are masked.
  ${gated ? '' : 'const u8* block = reinterpret_cast<const u8*>(x + base * stride);'}
  u32 lines[TALL][2]; // in ${gated ? 'values of a half' : 'bytes'}
  ${dropout ? 'u32 groups[TALL][2]; // the row\'s first eight values, as a place in the stream: fewer than 2^32' : ''}
  #pragma unroll
  for (int i = 0; i < TALL; i++)
    #pragma unroll
    for (int h = 0; h < 2; h++) {
      i64 row = min(base + i * 16 + h * 8 + g, rows - 1);
      lines[i][h] = (u32)(row - base) * ${gated ? '(u32)inner' : '(u32)stride * 2u'};
      ${dropout ? 'groups[i][h] = (u32)((first + row * inner) >> 3);' : ''}
    }
  ${dropout ? '// Of the rows of four neighbouring threads each gets the bits of one to write.\n  u32 bitLine = (u32)min(base + (TALL == 2 ? t >> 1 : 0) * 16 + (t & 1) * 8 + g, rows - 1) * (u32)pitch; // fewer than 2^32 bytes of bits' : ''}
  // Of a row's columns k to k + 7 and, half a step on, eight more, where to read the ones or the others.
  auto column = [&](int k, int s) { return (u32)${whole ? `(k < inner ? k : 0) + s * ${STEP / 2}` : `(k + s * ${STEP / 2} < inner ? k + s * ${STEP / 2} : 0)`}; };
  ${gated ? gatedInput.begin : `Pack<u32, 4> words[TALL][2][2];
  auto fetch = [&](int i, int k) {
    #pragma unroll
    for (int h = 0; h < 2; h++)
      #pragma unroll
      for (int s = 0; s < 2; s++) words[i][h][s] = *reinterpret_cast<const Pack<u32, 4>*>(block + (lines[i][h] + 2u * column(k, s)));
  };
  #pragma unroll
  for (int i = 0; i < TALL; i++) fetch(i, warp * STEP + t * 8);`}
  for (int start = warp * STEP; start < inner; start += WARPS * STEP) {
    int k = start + t * 8;
    ${whole ? '' : `u32 inside[2] = { k < inner ? 0xffffffffu : 0u, k + ${STEP / 2} < inner ? 0xffffffffu : 0u };`}
    ${gated ? gatedInput.take(whole) : ''}
    u32 b[MEMBERS][TILES][2][4];
    ${dropout ? 'u32 keep[MEMBERS][TALL];' : ''}
    #pragma unroll
    for (int i = 0; i < TALL; i++) {
      #pragma unroll
      for (int m = 0; m < MEMBERS; m++) {
        if (i == 0)
          #pragma unroll
          for (int j = 0; j < TILES; j++)
            #pragma unroll
            for (int s = 0; s < 2; s++) {
              const float* factor = factors[m] + (u32)(min(j * 8 + g, ${rank - 1}) * inner + ${whole ? 'k' : `(inside[s] ? k + s * ${STEP / 2} : 0)`})${whole ? ` + s * ${STEP / 2}` : ''};
              Pack<float, 4> low = loadPack<4>(factor), high = loadPack<4>(factor + 4);
              b[m][j][s][0] = packBf16(low.v[0], low.v[1]); b[m][j][s][1] = packBf16(low.v[2], low.v[3]);
              b[m][j][s][2] = packBf16(high.v[0], high.v[1]); b[m][j][s][3] = packBf16(high.v[2], high.v[3]);
            }
        u32 kept[2][2][4];
        #pragma unroll
        for (int h = 0; h < 2; h++) {
          ${dropout ? `u32 drawn[2][4];
          drawPair(drawn, groups[i][h] + (u32)(k >> 3), step, streams[m], key0, key1);
          #pragma unroll
          for (int s = 0; s < 2; s++)
            #pragma unroll
            for (int p = 0; p < 4; p++) drawn[s][p] = keepMask(drawn[s][p], thresholds);
          keep[m][i] = h ? joinRows(keep[m][i], keepBits(drawn)) : keepBits(drawn);` : ''}
          #pragma unroll
          for (int s = 0; s < 2; s++)
            #pragma unroll
            for (int p = 0; p < 4; p++) kept[h][s][p] = words[i][h][s].v[p]${dropout ? ' & drawn[s][p]' : ''}${whole ? '' : ' & inside[s]'};
        }
        #pragma unroll
        for (int j = 0; j < TILES; j++)
          #pragma unroll
          for (int s = 0; s < 2; s++)
            #pragma unroll
            for (int p = 0; p < 4; p += 2) {
              u32 a[4] = { kept[0][s][p], kept[1][s][p], kept[0][s][p + 1], kept[1][s][p + 1] };
              mma(sum[m][i][j], a, b[m][j][s][p], b[m][j][s][p + 1]);
            }
      }
      ${gated ? '' : "fetch(i, k + WARPS * STEP); // on its way while other rows and the next step's factors are at work"}
    }
    ${dropout ? `// A row that stands for one beyond the last writes the same again; the bits' rows have a place for columns beyond the last.
    #pragma unroll
    for (int m = 0; m < MEMBERS; m++) storeBits(bits[m] + bitLine + (u32)(start >> 3), keep[m], t);` : ''}
  }
  ${gated ? gatedInput.end : ''}
  #pragma unroll
  for (int m = 0; m < MEMBERS; m++)
    #pragma unroll
    for (int i = 0; i < TALL; i++)
      #pragma unroll
      for (int j = 0; j < TILES; j++)
        #pragma unroll
        for (int e = 0; e < 4; e++) parts[(warp * 16 * TALL + i * 16 + g + 8 * (e >> 1)) * WIDTH + (m * TILES + j) * 8 + 2 * t + (e & 1)] = sum[m][i][j][e];
  __syncthreads();
  auto finish = [&](bf16* out, bf16* room, float scale, int m) {
    for (int i = threadIdx.x; i < 16 * TALL * ${rank}; i += WARPS * 32) {
      int r = i / ${rank}, n = i % ${rank};
      float total = 0.f;
      #pragma unroll
      for (int p = 0; p < WARPS; p++) total += parts[(p * 16 * TALL + r) * WIDTH + m * TILES * 8 + n];
      if (base + r >= rows) continue;
      bf16 value = toBf16(total * scale);
      out[(base + r) * ${rank} + n] = value;
      if (room) room[(base + r) * stride + n] = value;
    }
  };
  ${each(members, (m) => `finish(out${m}, room${m}, scale${m}, ${m});`)}
}`,
  };
};

export const SPREAD_COLUMNS = 128;
export const SPREAD_ROWS = 128;

/** m16n8k8 where the rank allows, else steps of m16n8k16. */
export const spreadProducts = /* cuda */ `
__device__ __forceinline__ void mmaShort(float (&c)[4], u32 a0, u32 a1, u32 b) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
    : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(b));
}`;

/** Words of the factor's fragment for one tile: ranks k, k + 1 of a column, rounded. */
const factorPair = (factor: Factor, rank: number, column: string, k: string) =>
  factor === 'a'
    ? `packBf16(in && ${k} < ${rank} ? w[(i64)(${k}) * width + ${column}] : 0.f, in && ${k} + 1 < ${rank} ? w[(i64)(${k} + 1) * width + ${column}] : 0.f)`
    : `packBf16(in && ${k} < ${rank} ? w[(i64)${column} * ${rank} + ${k}] : 0.f, in && ${k} + 1 < ${rank} ? w[(i64)${column} * ${rank} + ${k} + 1] : 0.f)`;

export interface LoraSpreadShape {
  factor: Factor;
  rank: number;
  members: number;
  rows: number;
  /** The widest member's. */
  width: number;
  /** `each`: every member has an output of its own. `sum`: one output is the sum over the members. */
  mode: 'each' | 'sum';
  /** Only what a member's keep bits have is kept; for `sum`. */
  masked?: boolean;
}

/**
 * For kernels in which a warp has 32 columns of low [rows, rank] · factor: `fragments` keeps the factor's for all members, `add` adds the
 * product of rows `row` to `row` + 15 to `y[2][8]`, member by member. The tensor core's columns are dealt out so that a thread's results
 * are eight neighbours, from column `own` of rows `row` + g and `row` + g + 8. Both expect `g`, `t`, `column`, `own`, `inColumns`, `width`,
 * `end` and, where masked, `pitch`; for `sum` the members' `low`, `w` and `bits` by their numbers.
 */
export const spreadPieces = ({ factor, rank, members, mode, masked = false }: Omit<LoraSpreadShape, 'rows' | 'width'>) => {
  const short = rank <= 8, steps = short ? 1 : ceilDiv(rank, 16), summed = mode === 'sum' ? members : 1;
  const load = (m: number) => `{ ${mode === 'sum' ? `const float* w = w${m};` : ''}
    #pragma unroll
    for (int j = 0; j < 4; j++) {
      int c = column + (g >> 1) * 8 + j * 2 + (g & 1); bool in = c < width;
      #pragma unroll
      for (int s = 0; s < ${steps}; s++) { b[${m}][j][s][0] = ${factorPair(factor, rank, 'c', 's * 16 + 2 * t')};${short ? '' : ` b[${m}][j][s][1] = ${factorPair(factor, rank, 'c', 's * 16 + 2 * t + 8')};`} }
    } }`;
  const member = (m: number) => `{ ${mode === 'sum' ? `const bf16* low = low${m};` : ''}
      float c[4][4] = {};
      #pragma unroll
      for (int s = 0; s < ${steps}; s++) {
        ${short
          ? `u32 a0 = ${lowPair(rank, '(row + g)', '(2 * t)', 'end')}, a1 = ${lowPair(rank, '(row + g + 8)', '(2 * t)', 'end')};
        #pragma unroll
        for (int j = 0; j < 4; j++) mmaShort(c[j], a0, a1, b[${m}][j][s][0]);`
          : `u32 a[4] = { ${lowPair(rank, '(row + g)', '(s * 16 + 2 * t)', 'end')}, ${lowPair(rank, '(row + g + 8)', '(s * 16 + 2 * t)', 'end')}, ${lowPair(rank, '(row + g)', '(s * 16 + 2 * t + 8)', 'end')}, ${lowPair(rank, '(row + g + 8)', '(s * 16 + 2 * t + 8)', 'end')} };
        #pragma unroll
        for (int j = 0; j < 4; j++) mma(c[j], a, b[${m}][j][s][0], b[${m}][j][s][1]);`}
      }
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        ${masked ? `u32 byte = inColumns && row + g + 8 * h < end ? bits${m}[(row + g + 8 * h) * pitch + (own >> 3)] : 0u;` : ''}
        #pragma unroll
        for (int i = 0; i < 8; i++) ${masked ? 'if (byte & (1u << i)) ' : ''}y[h][i] += c[i >> 1][2 * h + (i & 1)];
      } }`;
  return {
    fragments: `u32 b[${summed}][4][${steps}][${short ? 1 : 2}];
  ${each(summed, load)}`,
    add: each(summed, member, '\n    '),
    /** Steps of the product over all members. */
    steps: steps * summed,
  };
};

/**
 * out [rows, width] = base + bias + low [rows, rank] · factor, for a product that then adds to it; base and bias may be null.
 * A warp has 32 columns, whose fragments of the factor it keeps. The tensor core's columns are dealt out so that a thread's results are
 * eight neighbours: one 16-byte store. Args: rows, bits' pitch, then for `sum` out, base, width and for each member low, w, bits; for
 * `each` for each member out, base, bias, width, low, w.
 */
export const loraSpreadProgram = (shape: LoraSpreadShape): CudaProgram => {
  const { factor, rank, members, rows, width, mode, masked = false } = shape, { fragments, add, steps } = spreadPieces(shape);
  return {
    key: `lora_spread_${factor}_${rank}x${members}_${mode}${masked ? '_masked' : ''}`,
    entry: 'lora_spread',
    grid: [ceilDiv(width, SPREAD_COLUMNS), ceilDiv(rows, SPREAD_ROWS), mode === 'each' ? members : 1],
    block: [SPREAD_COLUMNS, 1, 1],
    source: () => spreadProducts + /* cuda */ `
extern "C" __global__ void __launch_bounds__(${SPREAD_COLUMNS}) lora_spread(i64 rows, int pitch, ${mode === 'sum'
      ? `bf16* out, const bf16* base, int width, ${each(members, (m) => `const bf16* low${m}, const float* w${m}, const u8* bits${m}`, ', ')}`
      : each(members, (m) => `bf16* out${m}, const bf16* base${m}, const float* bias${m}, int width${m}, const bf16* low${m}, const float* w${m}`, ', ')}) {
  int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3, column = blockIdx.x * ${SPREAD_COLUMNS} + (threadIdx.x >> 5) * 32, own = column + t * 8;
  ${mode === 'each'
    ? `${[['bf16*', 'out'], ['const bf16*', 'base'], ['const float*', 'bias'], ['int', 'width'], ['const bf16*', 'low'], ['const float*', 'w']].map(([type, name]) => pick(members, type, name)).join('\n  ')}`
    : ''}
  if (column >= width) return;
  bool inColumns = own < width;
  ${fragments}
  i64 begin = (i64)blockIdx.y * ${SPREAD_ROWS}, end = min(begin + ${SPREAD_ROWS}, rows);
  ${mode === 'each' ? `float start[8] = {};
  if (bias && inColumns) {
    #pragma unroll
    for (int i = 0; i < 8; i++) start[i] = bias[own + i];
  }` : ''}
  #pragma unroll ${steps > 1 ? 1 : 4}
  for (i64 row = begin; row < end; row += 16) {
    float y[2][8];
    #pragma unroll
    for (int h = 0; h < 2; h++)
      #pragma unroll
      for (int i = 0; i < 8; i++) y[h][i] = ${mode === 'each' ? 'start[i]' : '0.f'};
    ${add}
    #pragma unroll
    for (int h = 0; h < 2; h++) {
      i64 at = (row + g + 8 * h) * width + own;
      if (!inColumns || row + g + 8 * h >= end) continue;
      if (base) {
        Pack<bf16, 8> before = loadPack<8>(base + at);
        #pragma unroll
        for (int i = 0; i < 8; i++) y[h][i] += toFloat(before.v[i]);
      }
      Pack<u32, 4> words;
      #pragma unroll
      for (int i = 0; i < 4; i++) words.v[i] = packBf16(y[h][2 * i], y[h][2 * i + 1]);
      *reinterpret_cast<Pack<u32, 4>*>(out + at) = words;
    }
  }
}`,
  };
};

const PLACE_THREADS = 256;

/**
 * For each member: its B [rows, rank] in bf16 into the room at the ends of its matrix' rows, where the inputs of all members have their
 * low-rank columns, and zeros in the rest of `room` columns, so that one product takes all. Columns and room are multiples of 8.
 * Args: columns of the matrices, stride, room, then for each member matrix, rows, b, rank, its first column.
 */
export const placeFactorsProgram = (members: number, rows: number, room: number): CudaProgram => ({
  key: `place_factors_${members}`,
  entry: 'place_factors',
  grid: [ceilDiv(rows * (room / 8), PLACE_THREADS), 1, members],
  block: [PLACE_THREADS, 1, 1],
  source: () => placeFactor + /* cuda */ `
extern "C" __global__ void __launch_bounds__(${PLACE_THREADS}) place_factors(int columns, int stride, int room, ${each(members, (m) => `bf16* matrix${m}, int rows${m}, const float* b${m}, int rank${m}, int from${m}`, ', ')}) {
  ${[['bf16*', 'matrix'], ['int', 'rows'], ['const float*', 'b'], ['int', 'rank'], ['int', 'from']].map(([type, name]) => pick(members, type, name)).join('\n  ')}
  placeFactor(matrix + columns, stride, rows, room, b, rank, from, blockIdx.x * ${PLACE_THREADS} + threadIdx.x);
}`,
});

/** Warps of the kernels below; each has a quarter of its block's columns. */
const WARPS = 4;
/** Elements from one row of a tile of so many times 128 columns to the next: 16 bytes more than they take, against bank conflicts. */
const tilePitch = (wide: number) => wide * PART_COLUMNS + 8;
/** The same for a tile of low-rank rows: odd multiples of 16 bytes. */
const lowPitch = (tiles: number) => (tiles | 1) * 8;

/** `i` goes over the first `count` numbers, dealt out to a block's threads in turn. */
const dealt = (count: number, body: string) => `#pragma unroll
    for (int n = 0; n < ${ceilDiv(count, WARPS * 32)}; n++) {
      int i = n * ${WARPS * 32} + threadIdx.x;
      ${count % (WARPS * 32) === 0 ? '' : `if (i < ${count}) `}{
        ${body}
      }
    }`;
/** Copies of so many rows of a low-rank matrix into shared memory, zeros outside. */
const fetchLow = (rank: number, rows: number, to: string, from: string) => {
  const tiles = rankTiles(rank), pitch = lowPitch(tiles);
  return rank % 8 === 0
    ? dealt(rows * tiles, `int r = i / ${tiles}, c = i % ${tiles} * 8;
        copyAsync<16>(${to} + r * ${pitch} + c, ${from} + (start + min(r, left - 1)) * ${rank} + c, r < left);`)
    : dealt(rows * tiles * 8, `int r = i / ${tiles * 8}, c = i % ${tiles * 8};
        ${to}[r * ${pitch} + c] = r < left && c < ${rank} ? ${from}[(start + r) * ${rank} + c] : bf16{ 0 };`);
};
/** The same for rows of so many times 128 columns of x: 16 threads have a row's 128. Where there is nothing to read a valid place is named. */
const fetchTile = (rows: number, wide: number) => `const bf16* line = x + start * stride;
    #pragma unroll
    for (int i = 0; i < ${rows / 8}; i++) {
      int r = i * 8 + (threadIdx.x >> 4);
      const bf16* from = line + min(r, left - 1) * stride;
      #pragma unroll
      for (int w = 0; w < ${wide}; w++) {
        int c = w * ${PART_COLUMNS} + (threadIdx.x & 15) * 8;
        bool inside = column + c < inner;
        copyAsync<16>(tile + r * ${tilePitch(wide)} + c, from + (inside ? column + c : 0), r < left && inside);
      }
    }`;
/** f[tile] becomes the fragment of 16 rows of a tile of low-rank rows for each 8 ranks; one load brings two. */
const loadLow = (tiles: number, f: string, from: string) => `#pragma unroll
      for (int j = 0; j < ${tiles}; j += 2) {
        u32 two[4];
        loadMatrix4Transposed(two, ${from} + (lane & 15) * ${lowPitch(tiles)} + min(j + (lane >> 4), ${tiles - 1}) * 8);
        ${f}[j][0] = two[0]; ${f}[j][1] = two[1];
        if (j + 1 < ${tiles}) { ${f}[j + 1 < ${tiles} ? j + 1 : j][0] = two[2]; ${f}[j + 1 < ${tiles} ? j + 1 : j][1] = two[3]; }
      }`;

/** Rows of a stage: about 16 KiB of a matrix. @param tiles of 128 columns, or of ranks where these ask for fewer rows */
const rowsOfStage = (tiles: number): number => Math.max(1, Math.floor(4 / tiles)) * 16;
/** Most times 128 columns of a block, whose sums have up to 64 registers of a thread. */
const mostWide = (tiles: number): number => Math.max(1, Math.min(4, Math.floor(8 / tiles)));

export interface LoraOutputShape {
  rank: number;
  members: number;
  rows: number;
  /** The widest member's. */
  width: number;
}

/** The stages of a block of so many times 128 columns, with the elements of dy and of low in one. Two stages' parts of lowParts lie behind them. */
const outputStage = (rank: number, wide: number) => {
  const tiles = rankTiles(rank), pitch = lowPitch(tiles), rows = rowsOfStage(Math.max(wide, tiles)), tile = rows * tilePitch(wide), low = rows * pitch;
  const stages = stagesOf(2 * (tile + low)), partsBytes = 2 * WARPS * rows * pitch * 4;
  return { rows, tile, low, stages, ahead: stages - 1, sharedBytes: 2 * stages * (tile + low) + partsBytes };
};
export const outputBlocks = ({ rank, members, rows, width }: LoraOutputShape): PartBlocks =>
  partBlocks({ rows, columns: width, matrices: members, most: mostWide(rankTiles(rank)) }, (wide) => outputStage(rank, wide),
    ({ columnBlocks, rowBlocks }) => 4 * rank * members * (columnBlocks * rows + rowBlocks * width));

/**
 * What a branch needs of its output's gradient, in one pass over that: for each member and each block of columns, lowParts
 * [column blocks, rows, rank] = dy · b; for each block of rows, bParts [row blocks, width, rank] = dyᵀ · low, low = hidden. A block's
 * warps have a quarter of its columns each, whose share of b stays in registers, and all rows of a stage; what they found of lowParts is
 * added up in the next one. Args: rows, rows a block, then for each member lowParts, bParts, dy, low, b, width, dy's stride.
 */
export const loraOutputProgram = (shape: LoraOutputShape, { tiles: wide, columnBlocks, rowBlocks } = outputBlocks(shape)): CudaProgram => {
  const { rank, members } = shape;
  const { rows: stageRows, tile, low, stages, sharedBytes } = outputStage(rank, wide);
  const tiles = rankTiles(rank), pitch = lowPitch(tiles);
  return {
    key: `lora_output_${rank}x${members}_${wide}`,
    entry: 'lora_output',
    grid: [columnBlocks, rowBlocks, members],
    block: [WARPS * 32, 1, 1],
    sharedBytes,
    source: () => /* cuda */ `
extern "C" __global__ void __launch_bounds__(${WARPS * 32}) lora_output(i64 rows, int perBlock,
    ${each(members, (m) => `float* lowParts${m}, float* bParts${m}, const bf16* x${m}, const bf16* low${m}, const float* b${m}, int inner${m}, int stride${m}`, ',\n    ')}) {
  constexpr int TILES = ${tiles}, STAGES = ${stages}, ROWS = ${stageRows}, STEPS = ${2 * wide}, PARTS = ${stageRows * pitch};
  extern __shared__ __align__(16) bf16 shared[];
  float* parts = reinterpret_cast<float*>(shared + STAGES * ${tile + low}); // [2][WARPS][ROWS][${pitch}]
  ${[['float*', 'lowParts'], ['float*', 'bParts'], ['const bf16*', 'x'], ['const bf16*', 'low'], ['const float*', 'b'], ['int', 'inner'], ['int', 'stride']].map(([type, name]) => pick(members, type, name)).join('\n  ')}
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3, part = lane >> 3, column = blockIdx.x * ${wide * PART_COLUMNS};
  if (column >= inner) return;
  i64 begin = (i64)blockIdx.y * perBlock, end = min(begin + perBlock, rows);
  int stages = (int)((end - begin + ROWS - 1) / ROWS), own = warp * ${wide * 32};
  auto fetch = [&](int stage) {
    bf16* tile = shared + stage % STAGES * ${tile + low}; bf16* lowTile = tile + ${tile};
    i64 start = begin + (i64)stage * ROWS;
    int left = (int)min(end - start, (i64)ROWS);
    ${fetchTile(stageRows, wide)}
    ${fetchLow(rank, stageRows, 'lowTile', 'low')}
    commitCopies();
  };
  for (int stage = 0; stage < STAGES - 1; stage++) if (stage < stages) fetch(stage); else commitCopies();
  u32 factor[STEPS][TILES][2];
  #pragma unroll
  for (int k = 0; k < STEPS; k++)
    #pragma unroll
    for (int j = 0; j < TILES; j++)
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        int c = column + own + k * 16 + h * 8 + 2 * t, r = j * 8 + g;
        bool in = c < inner && r < ${rank}; // widths are even
        const float* from = b + (in ? (i64)c * ${rank} + r : 0);
        float first = from[0], second = from[in ? ${rank} : 0];
        factor[k][j][h] = in ? packBf16(first, second) : 0u;
      }
  float sum[STEPS][TILES][4] = {};
  // The warps' parts of a stage's dy · b, in the warps' order.
  auto addParts = [&](int stage) {
    i64 start = begin + (i64)stage * ROWS;
    int count = (int)min(end - start, (i64)ROWS) * ${rank};
    float* to = lowParts + (blockIdx.x * rows + start) * ${rank};
    ${dealt(stageRows * rank, `const float* from = parts + (stage & 1) * ${WARPS} * PARTS + i / ${rank} * ${pitch} + i % ${rank};
        if (i < count) to[i] = ${each(WARPS, (w) => `from[${w} * PARTS]`, ' + ')};`)}
  };
  for (int stage = 0; stage < stages; stage++) {
    waitCopies<STAGES - 2>();
    __syncthreads(); // this stage is here for all, the one before is no longer read, and its parts are written
    if (stage + STAGES - 1 < stages) fetch(stage + STAGES - 1); else commitCopies();
    if (stage > 0) addParts(stage - 1);
    const bf16* tile = shared + stage % STAGES * ${tile + low}; const bf16* lowTile = tile + ${tile};
    #pragma unroll
    for (int s = 0; s < ROWS / 16; s++) {
      u32 f[TILES][2];
      ${loadLow(tiles, 'f', `lowTile + s * 16 * ${pitch}`)}
      float across[TILES][4] = {};
      #pragma unroll
      for (int k = 0; k < STEPS; k++) {
        u32 a[4];
        loadMatrix4(a, tile + (s * 16 + (part & 1) * 8 + (lane & 7)) * ${tilePitch(wide)} + own + k * 16 + (part >> 1) * 8);
        #pragma unroll
        for (int j = 0; j < TILES; j++) mma(across[j], a, factor[k][j][0], factor[k][j][1]);
        loadMatrix4Transposed(a, tile + (s * 16 + (part >> 1) * 8 + (lane & 7)) * ${tilePitch(wide)} + own + k * 16 + (part & 1) * 8);
        #pragma unroll
        for (int j = 0; j < TILES; j++) mma(sum[k][j], a, f[j][0], f[j][1]);
      }
      float* to = parts + ((stage & 1) * ${WARPS} + warp) * PARTS + (s * 16 + g) * ${pitch} + 2 * t;
      #pragma unroll
      for (int j = 0; j < TILES; j++)
        #pragma unroll
        for (int h = 0; h < 2; h++) storePack<2>(to + h * 8 * ${pitch} + j * 8, Pack<float, 2>{ { across[j][2 * h], across[j][2 * h + 1] } });
    }
  }
  waitCopies<0>();
  __syncthreads();
  addParts(stages - 1);
  #pragma unroll
  for (int k = 0; k < STEPS; k++)
    #pragma unroll
    for (int j = 0; j < TILES; j++)
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        int c = column + own + k * 16 + h * 8 + g, r = j * 8 + 2 * t;
        float* to = bParts + ((i64)blockIdx.y * inner + c) * ${rank} + r;
        ${rank % 2 === 0
          ? `if (c < inner && r < ${rank}) storePack<2>(to, Pack<float, 2>{ { sum[k][j][2 * h], sum[k][j][2 * h + 1] } });`
          : `if (c < inner && r < ${rank}) to[0] = sum[k][j][2 * h];
        if (c < inner && r + 1 < ${rank}) to[1] = sum[k][j][2 * h + 1];`}
      }
}`,
  };
};

export interface LoraInputShape {
  rank: number;
  members: number;
  masked: boolean;
  rows: number;
  inner: number;
}

/** The stages of a block of so many times 128 columns, with the elements in one: of x, of each member's low-rank matrix and of its bits, of all. */
const inputStage = ({ rank, members, masked }: LoraInputShape, wide: number) => {
  const tiles = rankTiles(rank), rows = rowsOfStage(Math.max(wide, Math.ceil((members * tiles) / 2)));
  const tile = rows * tilePitch(wide), low = rows * lowPitch(tiles), bits = masked ? rows * wide * 8 : 0;
  const stage = tile + members * (low + bits), stages = stagesOf(2 * stage);
  return { rows, tile, low, bits, stage, stages, ahead: stages - 1, sharedBytes: 2 * stages * stage };
};
export const inputBlocks = (shape: LoraInputShape): PartBlocks =>
  partBlocks({ rows: shape.rows, columns: shape.inner, most: mostWide(shape.members * rankTiles(shape.rank)) }, (wide) => inputStage(shape, wide),
    ({ rowBlocks }) => 4 * shape.rank * shape.members * rowBlocks * shape.inner);

/**
 * For each member: parts [row blocks, rank, inner] = low [rows, rank]ᵀ · keep(x [rows, inner]) over each block's rows, low = dHidden.
 * One pass over x: the members' keep bits are laid over its fragments in registers, a bit's sign spread over each half of a word.
 * Args: x, rows, inner, x's stride, rows a block, bits' pitch, then for each member parts, bits, low.
 */
export const loraInputProgram = (shape: LoraInputShape, { tiles: wide, columnBlocks, rowBlocks } = inputBlocks(shape)): CudaProgram => {
  const { rank, members, masked } = shape;
  const { rows: stageRows, tile, low, bits, stage, stages, sharedBytes } = inputStage(shape, wide);
  const tiles = rankTiles(rank), pitch = lowPitch(tiles);
  return {
    key: `lora_input_${rank}x${members}${masked ? '_masked' : ''}_${wide}`,
    entry: 'lora_input',
    grid: [columnBlocks, rowBlocks, 1],
    block: [WARPS * 32, 1, 1],
    sharedBytes,
    source: () => /* cuda */ `
extern "C" __global__ void __launch_bounds__(${WARPS * 32}) lora_input(const bf16* x, i64 rows, int inner, int stride, int perBlock, int bitsPitch,
    ${each(members, (m) => `float* parts${m}, const u8* bits${m}, const bf16* low${m}`, ',\n    ')}) {
  constexpr int TILES = ${tiles}, STAGES = ${stages}, MEMBERS = ${members}, ROWS = ${stageRows}, WIDE = ${wide};
  extern __shared__ __align__(16) bf16 shared[];
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3, part = lane >> 3, column = blockIdx.x * ${wide * PART_COLUMNS};
  i64 begin = (i64)blockIdx.y * perBlock, end = min(begin + perBlock, rows);
  int stages = (int)((end - begin + ROWS - 1) / ROWS);
  auto fetch = [&](int stage) {
    bf16* tile = shared + stage % STAGES * ${stage};
    i64 start = begin + (i64)stage * ROWS;
    int left = (int)min(end - start, (i64)ROWS);
    ${fetchTile(stageRows, wide)}
    ${each(members, (m) => fetchLow(rank, stageRows, `(tile + ${tile + m * low})`, `low${m}`), '\n    ')}
    ${masked ? dealt(stageRows * wide, `int r = i / WIDE, c = i % WIDE;
        bool inside = column + c * ${PART_COLUMNS} < inner;
        i64 from = (start + min(r, left - 1)) * bitsPitch + (inside ? blockIdx.x * WIDE + c : 0) * 16;
        ${each(members, (m) => `copyAsync<16>(tile + ${tile + members * low + m * bits} + i * 8, bits${m} + from, r < left && inside);`, '\n        ')}`) : ''}
    commitCopies();
  };
  for (int stage = 0; stage < STAGES - 1; stage++) if (stage < stages) fetch(stage); else commitCopies();
  float sum[MEMBERS][WIDE][2][TILES][4] = {};
  for (int stage = 0; stage < stages; stage++) {
    waitCopies<STAGES - 2>();
    __syncthreads(); // this stage is here for all, and the one before is no longer read
    if (stage + STAGES - 1 < stages) fetch(stage + STAGES - 1); else commitCopies();
    const bf16* tile = shared + stage % STAGES * ${stage};
    #pragma unroll
    for (int s = 0; s < ROWS / 16; s++) {
      u32 f[MEMBERS][TILES][2];
      #pragma unroll
      for (int m = 0; m < MEMBERS; m++)
      ${loadLow(tiles, 'f[m]', `tile + ${tile} + m * ${low} + s * 16 * ${pitch}`)}
      #pragma unroll
      for (int w = 0; w < WIDE; w++) {
        ${masked ? `// Rows 2t, 2t + 1, 2t + 8, 2t + 9 of this step, moved so that column g of each byte's eight is the byte's top bit.
        u32 keep[MEMBERS][4];
        #pragma unroll
        for (int m = 0; m < MEMBERS; m++)
          #pragma unroll
          for (int i = 0; i < 4; i++)
            keep[m][i] = reinterpret_cast<const u32*>(tile + ${tile + members * low} + m * ${bits})[(s * 16 + 2 * t + (i & 1) + 8 * (i >> 1)) * ${4 * wide} + warp * WIDE + w] << (7 - g);` : ''}
        #pragma unroll
        for (int i = 0; i < 2; i++) {
          u32 a[4];
          loadMatrix4Transposed(a, tile + (s * 16 + (part >> 1) * 8 + (lane & 7)) * ${tilePitch(wide)} + (warp * WIDE + w) * 32 + i * 16 + (part & 1) * 8);
          #pragma unroll
          for (int m = 0; m < MEMBERS; m++) {
            ${masked ? `u32 kept[4];
            #pragma unroll
            for (int q = 0; q < 4; q++) {
              u32 mask, byte = 2 * i + (q & 1);
              asm("prmt.b32 %0, %1, %2, %3;" : "=r"(mask) : "r"(keep[m][q & 2]), "r"(keep[m][(q & 2) + 1]), "r"(0xCC88u + 0x1111u * byte));
              kept[q] = a[q] & mask;
            }` : 'u32 (&kept)[4] = a;'}
            #pragma unroll
            for (int j = 0; j < TILES; j++) mma(sum[m][w][i][j], kept, f[m][j][0], f[m][j][1]);
          }
        }
      }
    }
  }
  waitCopies<0>();
  ${each(members, (m) => `#pragma unroll
  for (int w = 0; w < WIDE; w++)
    #pragma unroll
    for (int i = 0; i < 2; i++)
      #pragma unroll
      for (int j = 0; j < TILES; j++)
        #pragma unroll
        for (int e = 0; e < 4; e++) {
          int c = column + (warp * WIDE + w) * 32 + i * 16 + g + 8 * (e >> 1), r = j * 8 + 2 * t + (e & 1);
          if (c < inner && r < ${rank}) parts${m}[((i64)blockIdx.y * ${rank} + r) * inner + c] = sum[${m}][w][i][j][e];
        }`)}
}`,
  };
};

const SUM_THREADS = 128;
/** Parts that a thread of a sum asks for at a time. */
const SUM_AHEAD = 16;

/**
 * For each job: out = scale · Σ parts, in the parts' order, bf16 or float32; added to what is there where asked.
 * @param bf16 for each job, whether its output is bf16
 * Args: for each job out, parts, size, count, scale, accumulate.
 */
export const loraSumProgram = (bf16: readonly boolean[], sizes: readonly number[]): CudaProgram => ({
  key: `lora_sum_${bf16.map((is) => (is ? 'h' : 'f')).join('')}`,
  entry: 'lora_sum',
  grid: [ceilDiv(Math.max(...sizes), SUM_THREADS), bf16.length, 1],
  block: [SUM_THREADS, 1, 1],
  source: () => /* cuda */ `
template <typename T> __device__ __forceinline__ void job(T* out, const float* parts, int size, int count, float scale, int accumulate) {
  int at = blockIdx.x * ${SUM_THREADS} + threadIdx.x;
  if (at >= size) return;
  float sum = 0.f;
  // Many reads at a time, the last ones too: else each would wait for the one before.
  for (int i = 0; i < count; i += ${SUM_AHEAD}) {
    float next[${SUM_AHEAD}];
    #pragma unroll
    for (int j = 0; j < ${SUM_AHEAD}; j++) next[j] = i + j < count ? parts[(i64)(i + j) * size + at] : 0.f;
    #pragma unroll
    for (int j = 0; j < ${SUM_AHEAD}; j++) sum += next[j];
  }
  out[at] = Store<T>::of(accumulate ? toFloat(out[at]) + sum * scale : sum * scale);
}
extern "C" __global__ void __launch_bounds__(${SUM_THREADS}) lora_sum(${bf16.map((is, i) => `${is ? 'bf16' : 'float'}* out${i}, const float* parts${i}, int size${i}, int count${i}, float scale${i}, int accumulate${i}`).join(', ')}) {
  ${bf16.map((_, i) => `if (blockIdx.y == ${i}) job(out${i}, parts${i}, size${i}, count${i}, scale${i}, accumulate${i});`).join('\n  ')}
}`,
});
