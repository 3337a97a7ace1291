/*
 * The low-rank branch beside a frozen product, each kernel in one pass over the tall matrix and with dropout drawn on the way:
 * bound by memory bandwidth and, with dropout, nearly as much by Philox's integer arithmetic.
 * v1 was four cublasLt products around a dropped-out copy of x (H100, 4096 x 3200, rank 8): down 42 us, outer 47 us, spread 51 us.
 * x and the outputs are bf16, the low-rank matrices float32 as they are trained; rows of x are multiples of 8 values.
 */
import { ceilDiv, type CudaProgram } from '../program.js';
import { dropoutParameters, readDraw } from './dropout.cu.js';

/** Largest rank whose factors fit a thread's registers; above it cublasLt is used. */
export const MAX_RANK = 16;

/** Which matrix the branch is multiplied by: A [rank, inner] or B [inner, rank]. */
export type Factor = 'a' | 'b';

/** Draws for eight neighbouring values; `at` counts from the stream's start and is a multiple of 4. */
const draws = /* cuda */ `
struct Draws { u32 words[2][4]; };
__device__ __forceinline__ Draws drawEight(i64 at, u32 step, u32 stream, u32 key0, u32 key1) {
  Draws draws;
  philox(draws.words[0], (u64)(at >> 2), step, stream, key0, key1);
  philox(draws.words[1], (u64)(at >> 2) + 1, step, stream, key0, key1);
  return draws;
}
/** A word of two bf16 values with those dropped zeroed: the sign of (draw - threshold), spread over 16 bits, is the mask. */
__device__ __forceinline__ u32 dropPair(u32 word, const Draws& draws, int pair, u32 threshold) {
  const u32* two = draws.words[pair >> 1] + (pair & 1) * 2;
  u32 dropped;
  asm("prmt.b32 %0, %1, %2, 0xFFBB;" : "=r"(dropped) : "r"((two[0] & 0x7fffffu) - threshold), "r"((two[1] & 0x7fffffu) - threshold));
  return word & ~dropped;
}
`;

/** How a kernel masks: not at all, by drawing, or by the keep bits that the down kernel left behind, a byte for eight values. */
export type Masking = 'all' | 'draw' | 'bits';

const maskBits = /* cuda */ `
__device__ __forceinline__ u32 keepByte(const Draws& draws, u32 threshold) {
  u32 byte = 0;
  #pragma unroll
  for (int i = 0; i < 8; i++) byte |= (((draws.words[i >> 2][i & 3] & 0x7fffffu) - threshold) >> 31 ^ 1u) << i;
  return byte;
}
__device__ __forceinline__ u32 keepPair(u32 word, u32 byte, int pair) {
  u32 two = byte >> (2 * pair);
  return word & ((two & 1u) * 0xffffu | (two >> 1 & 1u) * 0xffff0000u);
}
`;

/** f[rank][8] from the factor, for columns k … k + 7, in 16-byte reads where its layout has them. */
const loadFactor = (factor: Factor, rank: number) =>
  factor === 'a'
    ? `#pragma unroll
  for (int r = 0; r < ${rank}; r++) {
    Pack<float, 4> p = loadPack<4>(w + (i64)r * inner + k), q = loadPack<4>(w + (i64)r * inner + k + 4);
    #pragma unroll
    for (int i = 0; i < 4; i++) { f[r][i] = p.v[i]; f[r][4 + i] = q.v[i]; }
  }`
    : rank % 4 === 0
      ? `#pragma unroll
  for (int i = 0; i < 8; i++)
    #pragma unroll
    for (int c = 0; c < ${rank / 4}; c++) {
      Pack<float, 4> p = loadPack<4>(w + (i64)(k + i) * ${rank} + 4 * c);
      #pragma unroll
      for (int j = 0; j < 4; j++) f[4 * c + j][i] = p.v[j];
    }`
      : `#pragma unroll
  for (int r = 0; r < ${rank}; r++)
    #pragma unroll
    for (int i = 0; i < 8; i++) f[r][i] = w[(i64)(k + i) * ${rank} + r];`;

/** Tall inputs fill the device with blocks of 32 rows, which read the factor half as often; short ones need more blocks. */
const downShape = (rows: number, rank: number) => (rows >= 3072 && rank <= 8 ? { tall: 2, warps: 16 } : { tall: 1, warps: 8 });

/**
 * out [rows, rank] = scale · dropout(x [rows, inner]) · factorᵀ. A block owns 16 rows, its warps share the inner dimension. Each
 * thread reads 16 neighbouring bytes of a row and takes them for the tensor core's scattered columns: the sum does not mind the
 * order as long as both operands have the same. With dropout the keep bits of x are left in `bits` (a byte for eight values) unless it
 * is null. Args: out, bits, x, w, rows, inner, scale, first, dropout.
 */
export const loraDownProgram = (factor: Factor, rank: number, dropout: boolean, rows: number): CudaProgram => {
  const tiles = ceilDiv(rank, 8), { tall, warps } = downShape(rows, rank);
  return {
    key: `lora_down_${factor}_${rank}_${dropout ? 'drop' : 'all'}_${tall}`,
    entry: 'lora_down',
    grid: [ceilDiv(rows, 16 * tall), 1, 1],
    block: [warps * 32, 1, 1],
    source: () => draws + maskBits + /* cuda */ `
extern "C" __global__ void __launch_bounds__(${warps * 32}) lora_down(bf16* out, u8* bits, const bf16* x, const float* w, i64 rows, int inner, float scale, i64 first, ${dropoutParameters}) {
  constexpr int TALL = ${tall}, WARPS = ${warps};
  __shared__ float parts[WARPS][16 * TALL][${tiles * 8 + 1}];
  ${dropout ? readDraw : ''}
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  i64 base = (i64)blockIdx.x * 16 * TALL;
  float sum[TALL][${tiles}][4];
  #pragma unroll
  for (int m = 0; m < TALL; m++)
    #pragma unroll
    for (int j = 0; j < ${tiles}; j++) sum[m][j][0] = sum[m][j][1] = sum[m][j][2] = sum[m][j][3] = 0.f;
  Pack<u32, 4> read[TALL][2], next[TALL][2];
  auto fetch = [&](Pack<u32, 4> (&to)[TALL][2], int k) {
    #pragma unroll
    for (int m = 0; m < TALL; m++)
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        i64 row = base + m * 16 + h * 8 + g;
        to[m][h] = k < inner && row < rows ? *reinterpret_cast<const Pack<u32, 4>*>(x + row * inner + k) : Pack<u32, 4>{ { 0, 0, 0, 0 } };
      }
  };
  fetch(next, warp * 32 + t * 8);
  for (int k = warp * 32 + t * 8; k - t * 8 < inner; k += WARPS * 32) {
    bool in = k < inner;
    #pragma unroll
    for (int m = 0; m < TALL; m++) { read[m][0] = next[m][0]; read[m][1] = next[m][1]; }
    fetch(next, k + WARPS * 32); // on its way while this step is computed
    u32 b[${tiles}][4];
    #pragma unroll
    for (int j = 0; j < ${tiles}; j++) {
      int n = j * 8 + g;
      float v[8];
      ${factor === 'a'
        ? `if (in && n < ${rank}) { Pack<float, 4> low = loadPack<4>(w + (i64)n * inner + k), high = loadPack<4>(w + (i64)n * inner + k + 4);
        #pragma unroll
        for (int i = 0; i < 4; i++) { v[i] = low.v[i]; v[4 + i] = high.v[i]; } }
      else
        #pragma unroll
        for (int i = 0; i < 8; i++) v[i] = 0.f;`
        : `#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = in && n < ${rank} ? w[(i64)(k + i) * ${rank} + n] : 0.f;`}
      #pragma unroll
      for (int i = 0; i < 4; i++) b[j][i] = packBf16(v[2 * i], v[2 * i + 1]);
    }
    #pragma unroll
    for (int m = 0; m < TALL; m++) {
      ${dropout ? `#pragma unroll
      for (int h = 0; h < 2; h++) {
        i64 row = base + m * 16 + h * 8 + g;
        Draws drawn = drawEight(first + row * inner + k, step, stream, key0, key1);
        if (bits && in && row < rows) bits[(row * inner + k) >> 3] = (u8)keepByte(drawn, threshold);
        #pragma unroll
        for (int i = 0; i < 4; i++) read[m][h].v[i] = dropPair(read[m][h].v[i], drawn, i, threshold);
      }` : ''}
      #pragma unroll
      for (int s = 0; s < 2; s++) {
        u32 a[4] = { read[m][0].v[2 * s], read[m][1].v[2 * s], read[m][0].v[2 * s + 1], read[m][1].v[2 * s + 1] };
        #pragma unroll
        for (int j = 0; j < ${tiles}; j++) mma(sum[m][j], a, b[j][2 * s], b[j][2 * s + 1]);
      }
    }
  }
  #pragma unroll
  for (int m = 0; m < TALL; m++)
    #pragma unroll
    for (int j = 0; j < ${tiles}; j++)
      #pragma unroll
      for (int e = 0; e < 4; e++) parts[warp][m * 16 + g + 8 * (e >> 1)][j * 8 + 2 * t + (e & 1)] = sum[m][j][e];
  __syncthreads();
  for (int i = threadIdx.x; i < 16 * TALL * ${rank}; i += WARPS * 32) {
    int r = i / ${rank}, n = i % ${rank};
    float total = 0.f;
    #pragma unroll
    for (int p = 0; p < WARPS; p++) total += parts[p][r][n];
    if (base + r < rows) out[(base + r) * ${rank} + n] = toBf16(total * scale${dropout ? ' * kept' : ''});
  }
}`,
  };
};

const SPREAD_ROWS = 32;
const SPREAD_THREADS = 128;

/** A row of the low-rank matrix as floats. */
const loadLow = (rank: number, to = 'h') =>
  rank % 8 === 0
    ? `#pragma unroll
    for (int c = 0; c < ${rank / 8}; c++) { Pack<bf16, 8> p = loadPack<8>(low + row * ${rank} + 8 * c);
      #pragma unroll
      for (int i = 0; i < 8; i++) ${to}[8 * c + i] = toFloat(p.v[i]); }`
    : `#pragma unroll
    for (int r = 0; r < ${rank}; r++) ${to}[r] = toFloat(low[row * ${rank} + r]);`;

/**
 * out [rows, inner] = dropout(low [rows, rank] · factor): only written, for a product that then adds to it. A thread keeps the
 * factor's values for its eight columns in registers. Args: out, bits, low, w, rows, inner, first, dropout.
 */
export const loraSpreadProgram = (factor: Factor, rank: number, masking: Masking, rows: number, inner: number): CudaProgram => ({
  key: `lora_spread_${factor}_${rank}_${masking}`,
  entry: 'lora_spread',
  grid: [ceilDiv((inner / 8) * ceilDiv(rows, SPREAD_ROWS), SPREAD_THREADS), 1, 1],
  block: [SPREAD_THREADS, 1, 1],
  source: () => draws + maskBits + /* cuda */ `
extern "C" __global__ void __launch_bounds__(${SPREAD_THREADS}) lora_spread(bf16* out, const u8* bits, const bf16* low, const float* w, i64 rows, int inner, i64 first, ${dropoutParameters}) {
  ${masking === 'draw' ? readDraw : ''}
  int groups = inner / 8;
  i64 id = (i64)blockIdx.x * ${SPREAD_THREADS} + threadIdx.x, begin = id / groups * ${SPREAD_ROWS};
  int k = (int)(id % groups) * 8;
  if (begin >= rows) return;
  float f[${rank}][8];
  ${loadFactor(factor, rank)}
  i64 end = begin + ${SPREAD_ROWS} < rows ? begin + ${SPREAD_ROWS} : rows;
  #pragma unroll 4
  for (i64 row = begin; row < end; row++) {
    float h[${rank}];
    ${loadLow(rank)}
    ${masking === 'draw' ? 'Draws drawn = drawEight(first + row * inner + k, step, stream, key0, key1);' : masking === 'bits' ? 'u32 byte = bits[(row * inner + k) >> 3];' : ''}
    Pack<u32, 4> y;
    #pragma unroll
    for (int i = 0; i < 4; i++) {
      float a = 0.f, b = 0.f;
      #pragma unroll
      for (int r = 0; r < ${rank}; r++) { a += h[r] * f[r][2 * i]; b += h[r] * f[r][2 * i + 1]; }
      y.v[i] = ${masking === 'draw' ? 'dropPair(packBf16(a * kept, b * kept), drawn, i, threshold)' : masking === 'bits' ? 'keepPair(packBf16(a * kept, b * kept), byte, i)' : 'packBf16(a, b)'};
    }
    *reinterpret_cast<Pack<u32, 4>*>(out + row * inner + k) = y;
  }
}`,
});

const OUTER_COLUMNS = 128;
const OUTER_WARPS = 4;
/** Rows of a stage, and stages on their way. */
const OUTER_STAGE = 32;
const OUTER_STAGES = 4;

/** Rows that one block of the outer product sums: fewer when there are few rows, so that the device is filled. */
export const outerRows = (rows: number): number => (rows >= 4096 ? 256 : rows >= 1024 ? 128 : 64);

/**
 * parts [blocks of rows, rank, inner] = low [rows, rank]ᵀ · dropout(x [rows, inner]) over each block's rows, on tensor cores. A block
 * owns 128 columns; tiles of x come through shared memory several stages ahead, and are masked there. v1, with a thread's sums in
 * registers and reads from global memory, waited for those: H100, 4096 rows, mean of a block's seven layers 31 us (50 with dropout).
 * Args: parts, bits, low, x, rows, inner, rowsPerBlock, first, dropout.
 */
export const loraOuterProgram = (rank: number, masking: Masking, rows: number, inner: number): CudaProgram => {
  const tiles = ceilDiv(rank, 8), vector = rank % 8 === 0;
  return {
    key: `lora_outer_${rank}_${masking}`,
    entry: 'lora_outer',
    grid: [ceilDiv(inner, OUTER_COLUMNS), ceilDiv(rows, outerRows(rows)), 1],
    block: [OUTER_WARPS * 32, 1, 1],
    source: () => draws + maskBits + /* cuda */ `
extern "C" __global__ void __launch_bounds__(${OUTER_WARPS * 32}) lora_outer(float* parts, const u8* bits, const bf16* low, const bf16* x, i64 rows, int inner, int rowsPerBlock, i64 first, ${dropoutParameters}) {
  constexpr int THREADS = ${OUTER_WARPS * 32}, ROWS = ${OUTER_STAGE}, COLUMNS = ${OUTER_COLUMNS}, STAGES = ${OUTER_STAGES}, XS = COLUMNS + 8, LS = ${tiles * 8 + 8};
  __shared__ __align__(16) bf16 sX[STAGES][ROWS * XS];
  __shared__ __align__(16) bf16 sLow[STAGES][ROWS * LS];
  ${masking === 'draw' ? readDraw : ''}
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3, column = blockIdx.x * COLUMNS;
  i64 begin = (i64)blockIdx.y * rowsPerBlock, end = min(begin + rowsPerBlock, rows);
  int stages = (int)((end - begin + ROWS - 1) / ROWS);
  auto fetch = [&](int stage) {
    int buffer = stage % STAGES;
    i64 start = begin + (i64)stage * ROWS;
    #pragma unroll
    for (int i = threadIdx.x; i < ROWS * COLUMNS / 8; i += THREADS) {
      int r = i / (COLUMNS / 8), c = i % (COLUMNS / 8) * 8;
      bool in = start + r < end && column + c < inner;
      copyAsync<16>(sX[buffer] + r * XS + c, in ? x + (start + r) * inner + column + c : x, in);
    }
    ${vector
      ? `for (int i = threadIdx.x; i < ROWS * ${tiles}; i += THREADS) {
      int r = i / ${tiles}, c = i % ${tiles} * 8;
      bool in = start + r < end;
      copyAsync<16>(sLow[buffer] + r * LS + c, in ? low + (start + r) * ${rank} + c : low, in);
    }`
      : `for (int i = threadIdx.x; i < ROWS * ${tiles * 8}; i += THREADS) {
      int r = i / ${tiles * 8}, c = i % ${tiles * 8};
      sLow[buffer][r * LS + c] = start + r < end && c < ${rank} ? low[(start + r) * ${rank} + c] : bf16{ 0 };
    }`}
    commitCopies();
  };
  float sum[${ceilDiv(tiles, 2)}][4][4];
  #pragma unroll
  for (int m = 0; m < ${ceilDiv(tiles, 2)}; m++)
    #pragma unroll
    for (int j = 0; j < 4; j++) sum[m][j][0] = sum[m][j][1] = sum[m][j][2] = sum[m][j][3] = 0.f;
  for (int stage = 0; stage < STAGES - 1; stage++) if (stage < stages) fetch(stage); else commitCopies();
  for (int stage = 0; stage < stages; stage++) {
    waitCopies<STAGES - 2>();
    __syncthreads(); // this stage is here for all, and the one before is no longer read
    if (stage + STAGES - 1 < stages) fetch(stage + STAGES - 1); else commitCopies();
    bf16* X = sX[stage % STAGES]; const bf16* L = sLow[stage % STAGES];
    ${masking !== 'all'
      ? `#pragma unroll
    for (int i = threadIdx.x; i < ROWS * COLUMNS / 8; i += THREADS) {
      int r = i / (COLUMNS / 8), c = i % (COLUMNS / 8) * 8;
      i64 value = (begin + (i64)stage * ROWS + r) * inner + column + c;
      ${masking === 'draw' ? 'Draws drawn = drawEight(first + value, step, stream, key0, key1);' : 'u32 byte = begin + stage * ROWS + r < end && column + c < inner ? bits[value >> 3] : 0;'}
      Pack<u32, 4>* at = reinterpret_cast<Pack<u32, 4>*>(X + r * XS + c);
      Pack<u32, 4> words = *at;
      #pragma unroll
      for (int p = 0; p < 4; p++) words.v[p] = ${masking === 'draw' ? 'dropPair(words.v[p], drawn, p, threshold)' : 'keepPair(words.v[p], byte, p)'};
      *at = words;
    }
    __syncthreads();`
      : ''}
    #pragma unroll
    for (int k = 0; k < ROWS / 16; k++) {
      u32 b[2][4];
      int part = lane >> 3;
      #pragma unroll
      for (int j = 0; j < 2; j++) loadMatrix4Transposed(b[j], X + (k * 16 + (part & 1) * 8 + (lane & 7)) * XS + warp * 32 + j * 16 + (part >> 1) * 8);
      #pragma unroll
      for (int m = 0; m < ${ceilDiv(tiles, 2)}; m++) {
        // Rows of the output are ranks: tiles (rank 0-7, row 0-7), (8-15, 0-7), (0-7, 8-15), (8-15, 8-15); beyond the rank zeros.
        u32 a[4];
        int wide = min(m * 2 + (part & 1), ${tiles - 1}) * 8;
        loadMatrix4Transposed(a, L + (k * 16 + (part >> 1) * 8 + (lane & 7)) * LS + wide);
        if (m * 2 + 1 >= ${tiles}) a[1] = a[3] = 0;
        #pragma unroll
        for (int j = 0; j < 2; j++) { mma(sum[m][2 * j], a, b[j][0], b[j][1]); mma(sum[m][2 * j + 1], a, b[j][2], b[j][3]); }
      }
    }
  }
  waitCopies<0>();
  #pragma unroll
  for (int m = 0; m < ${ceilDiv(tiles, 2)}; m++)
    #pragma unroll
    for (int j = 0; j < 4; j++)
      #pragma unroll
      for (int e = 0; e < 4; e++) {
        int r = m * 16 + g + 8 * (e >> 1), c = column + warp * 32 + j * 8 + 2 * t + (e & 1);
        if (r < ${rank} && c < inner) parts[((i64)blockIdx.y * ${rank} + r) * inner + c] = sum[m][j][e]${masking === 'all' ? '' : ' * kept'};
      }
}`,
  };
};

/**
 * out = Σ parts over the blocks of rows, in order; for B's gradient transposed to [inner, rank]. Args: out, parts, blocks, inner,
 * accumulate.
 */
export const loraSumProgram = (factor: Factor, rank: number, inner: number): CudaProgram => ({
  key: `lora_sum_${factor}_${rank}`,
  entry: 'lora_sum',
  grid: [ceilDiv(rank * inner, 128), 1, 1],
  block: [128, 1, 1],
  source: () => /* cuda */ `
extern "C" __global__ void lora_sum(float* out, const float* parts, int blocks, int inner, int accumulate) {
  int at = blockIdx.x * 128 + threadIdx.x, size = ${rank} * inner;
  if (at >= size) return;
  float sum = 0.f;
  #pragma unroll 8
  for (int i = 0; i < blocks; i++) sum += parts[(i64)i * size + at];
  int to = ${factor === 'a' ? 'at' : `at % inner * ${rank} + at / inner`};
  out[to] = accumulate ? out[to] + sum : sum;
}`,
});
