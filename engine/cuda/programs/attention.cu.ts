/*
 * Causal attention over packed rows, forward and backward, in tiles that never leave the multiprocessor (FlashAttention-2,
 * arXiv 2307.08691): bf16 operands, float32 scores and sums, tensor cores through mma.sync, tiles fetched by cp.async.
 * Bound by the tensor cores and, within a multiprocessor, by reading operand tiles from shared memory.
 * A query sees the keys of its own segment up to itself; tiles outside of every query's segment are skipped.
 * The backward pass has two kernels, one that owns tiles of queries (dq) and one that owns tiles of keys (dk, dv), so that
 * every sum has one owner and a fixed order: no atomics, the same bits every time.
 */
import { ceilDiv, type CudaProgram } from '../program.js';

export interface AttentionShape {
  batch: number;
  length: number;
  heads: number;
  kvHeads: number;
  headSize: number;
}

const WARPS = 4;
/** Keys of a tile in the forward pass and in dq. */
const KEYS = 64;
/** Queries of a tile in the pass over keys. */
const QUERIES = 32;
/** Rows of 16 that a warp owns in the forward pass. */
const FORWARD_ROWS = 1;

/** Shared memory that a block may have on every card since the A100: 99 KiB (compute capability 8.6, 8.9 and 12.0). */
const SHARED_LIMIT = 99 << 10;

/** Largest head size: beyond it the accumulators do not fit the registers. */
export const MAX_HEAD_SIZE = 128;

/** Head size as the tensor cores see it: whole steps of 16, the rest zeros. */
const padded = (headSize: number) => ceilDiv(headSize, 16) * 16;
/** Elements from one row of a shared tile to the next: 16 bytes more than a row, so that ldmatrix meets no bank twice. */
const tileStride = (headSize: number) => padded(headSize) + 8;
/** Bytes of one copy: the largest that every head's first element is aligned to. */
const copyBytes = (headSize: number) => (headSize % 8 === 0 ? 16 : headSize % 4 === 0 ? 8 : 4);

const common = (headSize: number) => /* cuda */ `
constexpr int D = ${headSize}, DP = ${padded(headSize)}, DS = ${tileStride(headSize)}, COPY = ${copyBytes(headSize)};
constexpr int THREADS = ${WARPS * 32};
#define LOG2E 1.4426950408889634f
// Segments of positions beyond the end: equal to no other.
#define NO_KEY ((int)0x80000000)
#define NO_QUERY ((int)0x80000001)

/** Rows first … first + ROWS - 1 of one head into a tile; rows from limit on and columns from D on become zeros. */
template <int ROWS> __device__ __forceinline__ void fetch(bf16* tile, const bf16* head, int first, int limit, i64 rowStride) {
  constexpr int CHUNK = COPY / 2, CHUNKS = DP / CHUNK;
  #pragma unroll 4
  for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
    int row = i / CHUNKS, column = i % CHUNKS * CHUNK, source = first + row;
    bool valid = source < limit && column < D;
    copyAsync<COPY>(tile + row * DS + column, valid ? head + source * rowStride + column : head, valid);
  }
}
/** Four tiles that are the a operand for rows row … row + 15, columns 16 step …. */
__device__ __forceinline__ void loadRows(u32 (&a)[4], const bf16* tile, int row, int step) {
  int lane = threadIdx.x & 31;
  loadMatrix4(a, tile + (row + (lane & 15)) * DS + step * 16 + (lane >> 4) * 8);
}
/** The b operand for 16 output columns that are rows of the tile; inner dimension along the row. b[0], b[1]: first 8 columns. */
__device__ __forceinline__ void loadColumns(u32 (&b)[4], const bf16* tile, int row, int step) {
  int lane = threadIdx.x & 31, part = lane >> 3;
  loadMatrix4(b, tile + (row + (part >> 1) * 8 + (lane & 7)) * DS + step * 16 + (part & 1) * 8);
}
/** The b operand for 16 output columns that are columns of the tile; inner dimension down the rows. */
__device__ __forceinline__ void loadColumnsTransposed(u32 (&b)[4], const bf16* tile, int row, int column) {
  int lane = threadIdx.x & 31, part = lane >> 3;
  loadMatrix4Transposed(b, tile + (row + (part & 1) * 8 + (lane & 7)) * DS + column + (part >> 1) * 8);
}
__device__ __forceinline__ float exp2Fast(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
/** Smallest (or largest, negated) of a value over the block. */
__device__ __forceinline__ int blockMin(int x) {
  __shared__ int parts[THREADS / 32];
  x = __reduce_min_sync(0xffffffffu, x);
  if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = x;
  __syncthreads();
  int y = parts[0];
  #pragma unroll
  for (int i = 1; i < THREADS / 32; i++) y = min(y, parts[i]);
  __syncthreads();
  return y;
}
`;

/** For each position of [batch, length] the first and the last position of its segment: out[0] and out[1] of [2, batch, length]. */
export const segmentBoundsProgram = ({ batch, length }: { batch: number; length: number }): CudaProgram => ({
  key: 'segment_bounds',
  entry: 'segment_bounds',
  grid: [ceilDiv(length, 128), batch, 1],
  block: [128, 1, 1],
  source: () => /* cuda */ `extern "C" __global__ void segment_bounds(int* out, const int* segments, int length, int batch) {
  int t = blockIdx.x * blockDim.x + threadIdx.x;
  if (t >= length) return;
  const int* row = segments + (i64)blockIdx.y * length;
  int own = row[t], first = 0, last = length - 1;
  while (row[first] != own) first++;
  while (row[last] != own) last--;
  i64 at = (i64)blockIdx.y * length + t;
  out[at] = first;
  out[(i64)batch * length + at] = last;
}`,
});

/** out [B,T,H,D] and logSum [B,H,T] (base 2, of the scaled scores) from q [B,T,H,D], k and v [B,T,Hkv,D]. */
export const attentionProgram = ({ batch, length, heads, headSize }: AttentionShape): CudaProgram => {
  const rows = 16 * FORWARD_ROWS * WARPS;
  return {
    key: `attention_${headSize}`,
    entry: 'attention',
    grid: [ceilDiv(length, rows), heads, batch],
    block: [WARPS * 32, 1, 1],
    sharedBytes: 4 * KEYS * tileStride(headSize) * 2 + 2 * KEYS * 4,
    source: () => common(headSize) + /* cuda */ `
constexpr int MT = ${FORWARD_ROWS}, BM = ${rows}, BN = ${KEYS};
extern "C" __global__ void __launch_bounds__(THREADS, 3) attention(bf16* out, float* logSum, const bf16* q, const bf16* k, const bf16* v,
    const int* segments, const int* bounds, int length, int heads, int kvHeads, float scale) {
  extern __shared__ __align__(16) unsigned char shared[];
  bf16* sK = (bf16*)shared; bf16* sV = sK + 2 * BN * DS;
  bf16* sQ = sV + BN * DS; // moved to registers before the second buffer of values is filled
  int* sSegment = (int*)(sV + 2 * BN * DS);
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  // The longest tiles first: with causal masking the last queries have the most keys.
  int tile = gridDim.x - 1 - blockIdx.x, head = blockIdx.y, batch = blockIdx.z, first = tile * BM;
  i64 qStride = (i64)heads * D, kvStride = (i64)kvHeads * D;
  const bf16* qHead = q + ((i64)batch * length * heads + head) * D;
  int kvHead = head / (heads / kvHeads);
  const bf16* kHead = k + ((i64)batch * length * kvHeads + kvHead) * D;
  const bf16* vHead = v + ((i64)batch * length * kvHeads + kvHead) * D;
  const int* segment = segments + (i64)batch * length;
  const int* begins = bounds + (i64)batch * length;

  int lowest = length;
  for (int i = threadIdx.x; i < BM; i += THREADS) if (first + i < length) lowest = min(lowest, begins[first + i]);
  lowest = blockMin(lowest);
  int end = min(first + BM, length), tileBegin = lowest / BN, tileEnd = lowest < length ? (end + BN - 1) / BN : 0;

  int rowSegment[MT][2];
  #pragma unroll
  for (int m = 0; m < MT; m++)
    #pragma unroll
    for (int h = 0; h < 2; h++) {
      int row = first + (warp * MT + m) * 16 + g + 8 * h;
      rowSegment[m][h] = row < length ? segment[row] : NO_QUERY;
    }

  auto fetchKeys = [&](int keyTile, int buffer) {
    fetch<BN>(sK + buffer * BN * DS, kHead, keyTile * BN, length, kvStride);
    fetch<BN>(sV + buffer * BN * DS, vHead, keyTile * BN, length, kvStride);
    if (threadIdx.x < BN) { int key = keyTile * BN + threadIdx.x; sSegment[buffer * BN + threadIdx.x] = key < length ? segment[key] : NO_KEY; }
    commitCopies();
  };
  static_assert(BM <= BN, "the queries borrow a buffer of values");
  fetch<BM>(sQ, qHead, first, length, qStride);
  commitCopies();
  if (tileBegin < tileEnd) fetchKeys(tileBegin, 0); else commitCopies();
  waitCopies<1>();
  __syncthreads();
  u32 qa[MT][DP / 16][4];
  #pragma unroll
  for (int m = 0; m < MT; m++)
    #pragma unroll
    for (int step = 0; step < DP / 16; step++) loadRows(qa[m][step], sQ, (warp * MT + m) * 16, step);
  __syncthreads();

  float o[MT][DP / 8][4], top[MT][2], sum[MT][2];
  #pragma unroll
  for (int m = 0; m < MT; m++) {
    #pragma unroll
    for (int j = 0; j < DP / 8; j++) o[m][j][0] = o[m][j][1] = o[m][j][2] = o[m][j][3] = 0.f;
    top[m][0] = top[m][1] = -INFINITY_F; sum[m][0] = sum[m][1] = 0.f;
  }
  float scaleLog2 = scale * LOG2E;

  for (int keyTile = tileBegin; keyTile < tileEnd; keyTile++) {
    int buffer = (keyTile - tileBegin) & 1;
    if (keyTile + 1 < tileEnd) { fetchKeys(keyTile + 1, buffer ^ 1); waitCopies<1>(); } else waitCopies<0>();
    __syncthreads();
    const bf16* K = sK + buffer * BN * DS; const bf16* V = sV + buffer * BN * DS; const int* keySegment = sSegment + buffer * BN;
    float s[MT][BN / 8][4];
    #pragma unroll
    for (int m = 0; m < MT; m++)
      #pragma unroll
      for (int j = 0; j < BN / 8; j++) s[m][j][0] = s[m][j][1] = s[m][j][2] = s[m][j][3] = 0.f;
    #pragma unroll
    for (int step = 0; step < DP / 16; step++)
      #pragma unroll
      for (int j = 0; j < BN / 16; j++) {
        u32 b[4];
        loadColumns(b, K, j * 16, step);
        #pragma unroll
        for (int m = 0; m < MT; m++) { mma(s[m][2 * j], qa[m][step], b[0], b[1]); mma(s[m][2 * j + 1], qa[m][step], b[2], b[3]); }
      }
    // A tile that every row of the warp sees in full needs no mask: one segment on both sides, keys before all queries.
    int warpRow = first + warp * MT * 16;
    bool same = true;
    #pragma unroll
    for (int m = 0; m < MT; m++) same = same && rowSegment[m][0] == rowSegment[0][0] && rowSegment[m][1] == rowSegment[0][0];
    #pragma unroll
    for (int i = 0; i < BN / 32; i++) same = same && keySegment[i * 32 + lane] == rowSegment[0][0];
    int anySegment = __shfl_sync(0xffffffffu, rowSegment[0][0], 0);
    bool full = __all_sync(0xffffffffu, same && rowSegment[0][0] == anySegment) && keyTile * BN + BN <= warpRow + 1;
    if (!full) {
      #pragma unroll
      for (int m = 0; m < MT; m++)
        #pragma unroll
        for (int j = 0; j < BN / 8; j++)
          #pragma unroll
          for (int e = 0; e < 4; e++) {
            int column = j * 8 + 2 * t + (e & 1), row = warpRow + m * 16 + g + 8 * (e >> 1);
            int own = rowSegment[m][e >> 1];
            bool seen = keySegment[column] == own && keyTile * BN + column <= row;
            if (!seen) s[m][j][e] = -INFINITY_F;
          }
    }
    #pragma unroll
    for (int m = 0; m < MT; m++)
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        float high = top[m][h];
        #pragma unroll
        for (int j = 0; j < BN / 8; j++) high = fmaxf(high, fmaxf(s[m][j][2 * h], s[m][j][2 * h + 1]));
        high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
        high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
        float base = high == -INFINITY_F ? 0.f : high * scaleLog2; // a row that has seen no key yet
        float correction = exp2Fast(top[m][h] * scaleLog2 - base), part = 0.f;
        #pragma unroll
        for (int j = 0; j < BN / 8; j++)
          #pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; e++) { s[m][j][e] = exp2Fast(s[m][j][e] * scaleLog2 - base); part += s[m][j][e]; }
        sum[m][h] = sum[m][h] * correction + part;
        top[m][h] = high;
        #pragma unroll
        for (int j = 0; j < DP / 8; j++) { o[m][j][2 * h] *= correction; o[m][j][2 * h + 1] *= correction; }
      }
    #pragma unroll
    for (int step = 0; step < BN / 16; step++) {
      u32 p[MT][4];
      #pragma unroll
      for (int m = 0; m < MT; m++) {
        p[m][0] = packBf16(s[m][2 * step][0], s[m][2 * step][1]); p[m][1] = packBf16(s[m][2 * step][2], s[m][2 * step][3]);
        p[m][2] = packBf16(s[m][2 * step + 1][0], s[m][2 * step + 1][1]); p[m][3] = packBf16(s[m][2 * step + 1][2], s[m][2 * step + 1][3]);
      }
      #pragma unroll
      for (int j = 0; j < DP / 16; j++) {
        u32 b[4];
        loadColumnsTransposed(b, V, step * 16, j * 16);
        #pragma unroll
        for (int m = 0; m < MT; m++) { mma(o[m][2 * j], p[m], b[0], b[1]); mma(o[m][2 * j + 1], p[m], b[2], b[3]); }
      }
    }
    __syncthreads();
  }
  #pragma unroll
  for (int m = 0; m < MT; m++)
    #pragma unroll
    for (int h = 0; h < 2; h++) {
      float total = sum[m][h];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      int row = first + (warp * MT + m) * 16 + g + 8 * h;
      if (row >= length) continue;
      float inverse = total > 0.f ? 1.f / total : 0.f;
      // A row without keys weighs nothing in the backward pass either: exp2(s - infinity) = 0.
      if (t == 0) logSum[((i64)batch * heads + head) * length + row] = total > 0.f ? top[m][h] * scaleLog2 + log2f(total) : INFINITY_F;
      bf16* to = out + ((i64)batch * length + row) * qStride + head * D;
      #pragma unroll
      for (int j = 0; j < DP / 8; j++) {
        int column = j * 8 + 2 * t;
        if (column < D) *(u32*)(to + column) = packBf16(o[m][j][2 * h] * inverse, o[m][j][2 * h + 1] * inverse);
      }
    }
}`,
  };
};

/** delta [B,H,T]: the dot product of each row of out with its gradient. A warp a row. */
export const attentionDeltaProgram = ({ batch, length, heads, headSize }: AttentionShape): CudaProgram => ({
  key: `attention_delta_${headSize}`,
  entry: 'attention_delta',
  grid: [ceilDiv(batch * length * heads, 8), 1, 1],
  block: [256, 1, 1],
  source: () => /* cuda */ `extern "C" __global__ void attention_delta(float* delta, const bf16* out, const bf16* dOut, int length, int heads, i64 rows) {
  i64 row = (i64)blockIdx.x * 8 + (threadIdx.x >> 5);
  if (row >= rows) return;
  const u32* a = (const u32*)(out + row * ${headSize}); const u32* b = (const u32*)(dOut + row * ${headSize});
  float sum = 0.f;
  for (int i = threadIdx.x & 31; i < ${headSize / 2}; i += 32) sum += lowHalf(a[i]) * lowHalf(b[i]) + highHalf(a[i]) * highHalf(b[i]);
  sum = warpSum(sum);
  i64 position = row / heads;
  if ((threadIdx.x & 31) == 0) delta[((position / length) * heads + row % heads) * length + position % length] = sum;
}`,
});

/** dq [B,T,H,D]. */
export const attentionQueryGradientProgram = ({ batch, length, heads, headSize }: AttentionShape): CudaProgram => {
  const rows = 16 * WARPS;
  const bytes = (stages: number) => (2 * rows + 2 * stages * KEYS) * tileStride(headSize) * 2 + stages * KEYS * 4;
  const stages = bytes(2) <= SHARED_LIMIT ? 2 : 1;
  return {
    key: `attention_dq_${headSize}`,
    entry: 'attention_dq',
    grid: [ceilDiv(length, rows), heads, batch],
    block: [WARPS * 32, 1, 1],
    sharedBytes: bytes(stages),
    source: () => common(headSize) + /* cuda */ `
constexpr int BM = ${rows}, BN = ${KEYS}, STAGES = ${stages};
extern "C" __global__ void __launch_bounds__(THREADS) attention_dq(bf16* dq, const bf16* dOut, const bf16* q, const bf16* k, const bf16* v,
    const float* logSum, const float* delta, const int* segments, const int* bounds, int length, int heads, int kvHeads, float scale) {
  extern __shared__ __align__(16) unsigned char shared[];
  bf16* sQ = (bf16*)shared; bf16* sO = sQ + BM * DS; bf16* sK = sO + BM * DS; bf16* sV = sK + STAGES * BN * DS;
  int* sSegment = (int*)(sV + STAGES * BN * DS);
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  int tile = gridDim.x - 1 - blockIdx.x, head = blockIdx.y, batch = blockIdx.z, first = tile * BM;
  i64 qStride = (i64)heads * D, kvStride = (i64)kvHeads * D;
  i64 headAt = ((i64)batch * length * heads + head) * D;
  int kvHead = head / (heads / kvHeads);
  i64 kvAt = ((i64)batch * length * kvHeads + kvHead) * D;
  const int* segment = segments + (i64)batch * length;
  const int* begins = bounds + (i64)batch * length;
  int lowest = length;
  for (int i = threadIdx.x; i < BM; i += THREADS) if (first + i < length) lowest = min(lowest, begins[first + i]);
  lowest = blockMin(lowest);
  int end = min(first + BM, length), tileBegin = lowest / BN, tileEnd = lowest < length ? (end + BN - 1) / BN : 0;

  int warpRow = first + warp * 16, rowSegment[2];
  float rowLog[2], rowDelta[2];
  #pragma unroll
  for (int h = 0; h < 2; h++) {
    int row = warpRow + g + 8 * h;
    bool in = row < length;
    i64 at = ((i64)batch * heads + head) * length + row;
    rowSegment[h] = in ? segment[row] : NO_QUERY; rowLog[h] = in ? logSum[at] : INFINITY_F; rowDelta[h] = in ? delta[at] : 0.f;
  }
  fetch<BM>(sQ, q + headAt, first, length, qStride);
  fetch<BM>(sO, dOut + headAt, first, length, qStride);
  auto fetchKeys = [&](int keyTile, int buffer) {
    fetch<BN>(sK + buffer * BN * DS, k + kvAt, keyTile * BN, length, kvStride);
    fetch<BN>(sV + buffer * BN * DS, v + kvAt, keyTile * BN, length, kvStride);
    if (threadIdx.x < BN) { int key = keyTile * BN + threadIdx.x; sSegment[buffer * BN + threadIdx.x] = key < length ? segment[key] : NO_KEY; }
    commitCopies();
  };
  if (tileBegin < tileEnd) fetchKeys(tileBegin, 0); else commitCopies();
  float d[DP / 8][4];
  #pragma unroll
  for (int j = 0; j < DP / 8; j++) d[j][0] = d[j][1] = d[j][2] = d[j][3] = 0.f;
  float scaleLog2 = scale * LOG2E;

  for (int keyTile = tileBegin; keyTile < tileEnd; keyTile++) {
    int buffer = STAGES == 2 ? (keyTile - tileBegin) & 1 : 0;
    if (STAGES == 1 && keyTile > tileBegin) fetchKeys(keyTile, 0);
    if (STAGES == 2 && keyTile + 1 < tileEnd) { fetchKeys(keyTile + 1, buffer ^ 1); waitCopies<1>(); } else waitCopies<0>();
    __syncthreads();
    const bf16* K = sK + buffer * BN * DS; const bf16* V = sV + buffer * BN * DS; const int* keySegment = sSegment + buffer * BN;
    float s[BN / 8][4], p[BN / 8][4];
    #pragma unroll
    for (int j = 0; j < BN / 8; j++) { s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.f; p[j][0] = p[j][1] = p[j][2] = p[j][3] = 0.f; }
    #pragma unroll
    for (int step = 0; step < DP / 16; step++) {
      u32 a[4], c[4];
      loadRows(a, sQ, warp * 16, step);
      loadRows(c, sO, warp * 16, step);
      #pragma unroll
      for (int j = 0; j < BN / 16; j++) {
        u32 b[4];
        loadColumns(b, K, j * 16, step);
        mma(s[2 * j], a, b[0], b[1]); mma(s[2 * j + 1], a, b[2], b[3]);
        loadColumns(b, V, j * 16, step);
        mma(p[2 * j], c, b[0], b[1]); mma(p[2 * j + 1], c, b[2], b[3]);
      }
    }
    #pragma unroll
    for (int j = 0; j < BN / 8; j++)
      #pragma unroll
      for (int e = 0; e < 4; e++) {
        int column = j * 8 + 2 * t + (e & 1), h = e >> 1;
        bool seen = keySegment[column] == rowSegment[h] && keyTile * BN + column <= warpRow + g + 8 * h;
        float weight = seen ? exp2Fast(s[j][e] * scaleLog2 - rowLog[h]) : 0.f;
        s[j][e] = weight * (p[j][e] - rowDelta[h]);
      }
    #pragma unroll
    for (int step = 0; step < BN / 16; step++) {
      u32 a[4] = { packBf16(s[2 * step][0], s[2 * step][1]), packBf16(s[2 * step][2], s[2 * step][3]),
                   packBf16(s[2 * step + 1][0], s[2 * step + 1][1]), packBf16(s[2 * step + 1][2], s[2 * step + 1][3]) };
      #pragma unroll
      for (int j = 0; j < DP / 16; j++) {
        u32 b[4];
        loadColumnsTransposed(b, K, step * 16, j * 16);
        mma(d[2 * j], a, b[0], b[1]); mma(d[2 * j + 1], a, b[2], b[3]);
      }
    }
    __syncthreads();
  }
  waitCopies<0>(); // with no key tile the queries are still on their way
  #pragma unroll
  for (int h = 0; h < 2; h++) {
    int row = warpRow + g + 8 * h;
    if (row >= length) continue;
    bf16* to = dq + headAt + row * qStride;
    #pragma unroll
    for (int j = 0; j < DP / 8; j++) {
      int column = j * 8 + 2 * t;
      if (column < D) *(u32*)(to + column) = packBf16(d[j][2 * h] * scale, d[j][2 * h + 1] * scale);
    }
  }
}`,
  };
};

/** dk and dv [B,T,Hkv,D]; a block owns a tile of keys of one key head and sums over the queries of all its query heads. */
export const attentionKeyGradientProgram = ({ batch, length, kvHeads, headSize }: AttentionShape): CudaProgram => {
  const rows = 16 * WARPS;
  return {
    key: `attention_dkv_${headSize}`,
    entry: 'attention_dkv',
    grid: [ceilDiv(length, rows), kvHeads, batch],
    block: [WARPS * 32, 1, 1],
    sharedBytes: (2 * rows + 4 * QUERIES) * tileStride(headSize) * 2 + 2 * QUERIES * 12,
    source: () => common(headSize) + /* cuda */ `
constexpr int BN = ${rows}, BQ = ${QUERIES};
extern "C" __global__ void __launch_bounds__(THREADS) attention_dkv(bf16* dk, bf16* dv, const bf16* dOut, const bf16* q, const bf16* k, const bf16* v,
    const float* logSum, const float* delta, const int* segments, const int* bounds, int length, int heads, int kvHeads, int batches, float scale) {
  extern __shared__ __align__(16) unsigned char shared[];
  bf16* sK = (bf16*)shared; bf16* sV = sK + BN * DS; bf16* sQ = sV + BN * DS; bf16* sO = sQ + 2 * BQ * DS;
  int* sSegment = (int*)(sO + 2 * BQ * DS); float* sLog = (float*)(sSegment + 2 * BQ); float* sDelta = sLog + 2 * BQ;
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  int first = blockIdx.x * BN, kvHead = blockIdx.y, batch = blockIdx.z, group = heads / kvHeads;
  i64 qStride = (i64)heads * D, kvStride = (i64)kvHeads * D;
  i64 kvAt = ((i64)batch * length * kvHeads + kvHead) * D;
  const int* segment = segments + (i64)batch * length;
  const int* ends = bounds + ((i64)batches + batch) * length;
  int highest = 1; // negated
  for (int i = threadIdx.x; i < BN; i += THREADS) if (first + i < length) highest = min(highest, -ends[first + i]);
  highest = -blockMin(highest);
  int tileBegin = first / BQ, tileCount = highest >= 0 ? highest / BQ - tileBegin + 1 : 0, total = tileCount * group;

  int warpKey = first + warp * 16, keySegment[2];
  #pragma unroll
  for (int h = 0; h < 2; h++) { int key = warpKey + g + 8 * h; keySegment[h] = key < length ? segment[key] : NO_KEY; }
  auto fetchQueries = [&](int index, int buffer) {
    int head = kvHead * group + index / tileCount, start = (tileBegin + index % tileCount) * BQ;
    i64 headAt = ((i64)batch * length * heads + head) * D;
    fetch<BQ>(sQ + buffer * BQ * DS, q + headAt, start, length, qStride);
    fetch<BQ>(sO + buffer * BQ * DS, dOut + headAt, start, length, qStride);
    if (threadIdx.x < BQ) {
      int row = start + threadIdx.x, at = buffer * BQ + threadIdx.x;
      bool in = row < length;
      i64 from = ((i64)batch * heads + head) * length + row;
      sSegment[at] = in ? segment[row] : NO_QUERY; sLog[at] = in ? logSum[from] : INFINITY_F; sDelta[at] = in ? delta[from] : 0.f;
    }
    commitCopies();
  };
  fetch<BN>(sK, k + kvAt, first, length, kvStride);
  fetch<BN>(sV, v + kvAt, first, length, kvStride);
  if (total > 0) fetchQueries(0, 0); else commitCopies();
  float dK[DP / 8][4], dV[DP / 8][4];
  #pragma unroll
  for (int j = 0; j < DP / 8; j++) { dK[j][0] = dK[j][1] = dK[j][2] = dK[j][3] = 0.f; dV[j][0] = dV[j][1] = dV[j][2] = dV[j][3] = 0.f; }
  float scaleLog2 = scale * LOG2E;

  for (int index = 0; index < total; index++) {
    int buffer = index & 1;
    if (index + 1 < total) { fetchQueries(index + 1, buffer ^ 1); waitCopies<1>(); } else waitCopies<0>();
    __syncthreads();
    const bf16* Q = sQ + buffer * BQ * DS; const bf16* O = sO + buffer * BQ * DS;
    int start = (tileBegin + index % tileCount) * BQ;
    float s[BQ / 8][4], p[BQ / 8][4];
    #pragma unroll
    for (int j = 0; j < BQ / 8; j++) { s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.f; p[j][0] = p[j][1] = p[j][2] = p[j][3] = 0.f; }
    #pragma unroll
    for (int step = 0; step < DP / 16; step++) {
      u32 a[4], c[4];
      loadRows(a, sK, warp * 16, step);
      loadRows(c, sV, warp * 16, step);
      #pragma unroll
      for (int j = 0; j < BQ / 16; j++) {
        u32 b[4];
        loadColumns(b, Q, j * 16, step);
        mma(s[2 * j], a, b[0], b[1]); mma(s[2 * j + 1], a, b[2], b[3]);
        loadColumns(b, O, j * 16, step);
        mma(p[2 * j], c, b[0], b[1]); mma(p[2 * j + 1], c, b[2], b[3]);
      }
    }
    // s becomes the weights, p the gradient of the scaled scores; rows are keys, columns queries.
    #pragma unroll
    for (int j = 0; j < BQ / 8; j++)
      #pragma unroll
      for (int e = 0; e < 4; e++) {
        int column = j * 8 + 2 * t + (e & 1), at = buffer * BQ + column, h = e >> 1;
        bool seen = sSegment[at] == keySegment[h] && warpKey + g + 8 * h <= start + column;
        float weight = seen ? exp2Fast(s[j][e] * scaleLog2 - sLog[at]) : 0.f;
        s[j][e] = weight;
        p[j][e] = weight * (p[j][e] - sDelta[at]);
      }
    #pragma unroll
    for (int step = 0; step < BQ / 16; step++) {
      u32 a[4] = { packBf16(s[2 * step][0], s[2 * step][1]), packBf16(s[2 * step][2], s[2 * step][3]),
                   packBf16(s[2 * step + 1][0], s[2 * step + 1][1]), packBf16(s[2 * step + 1][2], s[2 * step + 1][3]) };
      u32 c[4] = { packBf16(p[2 * step][0], p[2 * step][1]), packBf16(p[2 * step][2], p[2 * step][3]),
                   packBf16(p[2 * step + 1][0], p[2 * step + 1][1]), packBf16(p[2 * step + 1][2], p[2 * step + 1][3]) };
      #pragma unroll
      for (int j = 0; j < DP / 16; j++) {
        u32 b[4];
        loadColumnsTransposed(b, O, step * 16, j * 16);
        mma(dV[2 * j], a, b[0], b[1]); mma(dV[2 * j + 1], a, b[2], b[3]);
        loadColumnsTransposed(b, Q, step * 16, j * 16);
        mma(dK[2 * j], c, b[0], b[1]); mma(dK[2 * j + 1], c, b[2], b[3]);
      }
    }
    __syncthreads();
  }
  waitCopies<0>();
  #pragma unroll
  for (int h = 0; h < 2; h++) {
    int key = warpKey + g + 8 * h;
    if (key >= length) continue;
    i64 at = kvAt + key * kvStride;
    #pragma unroll
    for (int j = 0; j < DP / 8; j++) {
      int column = j * 8 + 2 * t;
      if (column >= D) continue;
      *(u32*)(dk + at + column) = packBf16(dK[j][2 * h] * scale, dK[j][2 * h + 1] * scale);
      *(u32*)(dv + at + column) = packBf16(dV[j][2 * h], dV[j][2 * h + 1]);
    }
  }
}`,
  };
};
