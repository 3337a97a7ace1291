/*
 * Attention's backward pass on any card: a kernel that owns tiles of queries (dq) and one that owns tiles of keys (dk, dv), so that every
 * sum has one owner and a fixed order, without atomics. The scores are computed in both: seven products where five would do,
 * but no partial sums in memory. Bound by reading operand tiles from shared memory: 140 to 180 TFLOP/s on an H100 at
 * 4 x 2048 tokens, heads of 100.
 */
import { ceilDiv, type CudaProgram } from '../program.js';
import { fetchKeys, keyRange, mmaCommon, OWN_ROWS, SHARED_LIMIT, tileStride, WARPS } from './attention-mma.cu.js';
import { rotationCommon, rotationKey } from './attention-rotation.cu.js';
import type { AttentionShape } from './attention-shape.js';

/** Keys of a tile in the pass over queries. */
const KEYS = 64;
/** Queries of a tile in the pass over keys. */
const QUERIES = 32;

/** A warp's 16 rows of accumulators, times scale, as bf16 to their rows of a tile that nobody else reads any longer. */
const placeRows = /* cuda */ `
__device__ __forceinline__ void placeRows(bf16* rows, const float (&d)[DP / 8][4], float scale) {
  int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  #pragma unroll
  for (int j = 0; j < DP / 8; j++)
    #pragma unroll
    for (int h = 0; h < 2; h++) *(u32*)(rows + (g + 8 * h) * DS + j * 8 + 2 * t) = packBf16(d[j][2 * h] * scale, d[j][2 * h + 1] * scale);
  __syncwarp();
}
`;

/** delta [B,H,stateLength]: the dot product of each row of out with its gradient. A warp a row. Args: delta, out, dOut, length, stateLength, heads, rows, out's stride (from position to position). */
export const attentionDeltaProgram = ({ batch, length, heads, headSize }: AttentionShape): CudaProgram => ({
  key: `attention_delta_${headSize}`,
  entry: 'attention_delta',
  grid: [ceilDiv(batch * length * heads, 8), 1, 1],
  block: [256, 1, 1],
  source: () => /* cuda */ `extern "C" __global__ void attention_delta(float* delta, const bf16* out, const bf16* dOut, int length, int stateLength, int heads, i64 rows, int outStride) {
  i64 row = (i64)blockIdx.x * 8 + (threadIdx.x >> 5);
  if (row >= rows) return;
  i64 position = row / heads;
  const u32* a = (const u32*)(out + position * outStride + row % heads * ${headSize}); const u32* b = (const u32*)(dOut + row * ${headSize});
  float sum = 0.f;
  for (int i = threadIdx.x & 31; i < ${headSize / 2}; i += 32) sum += lowHalf(a[i]) * lowHalf(b[i]) + highHalf(a[i]) * highHalf(b[i]);
  sum = warpSum(sum);
  if ((threadIdx.x & 31) == 0) delta[((position / length) * heads + row % heads) * stateLength + position % length] = sum;
}`,
});

/**
 * dq [B,T,H,D]. Args: dq, dOut, q, k, v, logSum, delta, bounds, cos, sin (of shapes that are rotated), length, stateLength, heads, kvHeads,
 * batches, scale, dq's stride (from position to position).
 */
export const attentionQueryGradientProgram = ({ batch, length, heads, headSize, rotated }: AttentionShape): CudaProgram => {
  const bytes = (stages: number) => (2 * OWN_ROWS + 2 * stages * KEYS) * tileStride(headSize) * 2;
  const stages = bytes(2) <= SHARED_LIMIT ? 2 : 1;
  return {
    key: `attention_dq_${headSize}${rotationKey(rotated)}`,
    entry: 'attention_dq',
    grid: [ceilDiv(length, OWN_ROWS), heads, batch],
    block: [WARPS * 32, 1, 1],
    sharedBytes: bytes(stages),
    source: () => mmaCommon(headSize) + (rotated ? rotationCommon(headSize) + placeRows : '') + /* cuda */ `
constexpr int BM = ${OWN_ROWS}, BN = ${KEYS}, STAGES = ${stages};
extern "C" __global__ void __launch_bounds__(THREADS) attention_dq(bf16* dq, const bf16* dOut, const bf16* q, const bf16* k, const bf16* v,
    const float* logSum, const float* delta, const int* bounds, const float* cosines, const float* sines, int length, int stateLength, int heads, int kvHeads, int batches,
    float scale, int outStride) {
  extern __shared__ __align__(16) unsigned char shared[];
  bf16* sQ = (bf16*)shared; bf16* sO = sQ + BM * DS; bf16* sK = sO + BM * DS; bf16* sV = sK + STAGES * BN * DS;
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  int tile = gridDim.x - 1 - blockIdx.x, head = blockIdx.y, batch = blockIdx.z, first = tile * BM;
  i64 qStride = (i64)heads * D, kvStride = (i64)kvHeads * D;
  i64 headAt = ((i64)batch * length * heads + head) * D, outAt = (i64)batch * length * outStride + head * D;
${keyRange}  float rowLog[2], rowDelta[2];
  #pragma unroll
  for (int h = 0; h < 2; h++) {
    int row = warpRow + g + 8 * h;
    bool in = row < length;
    i64 at = ((i64)batch * heads + head) * stateLength + row;
    begin[h] = in ? begins[row] : SEES_NOTHING; rowLog[h] = in ? logSum[at] : INFINITY_F; rowDelta[h] = in ? delta[at] : 0.f;
    seen[h] = begin[h] > row ? 0 : row - begin[h] + 1;
  }
  fetch<BM>(sQ, q + headAt, first, length, qStride);
  fetch<BM>(sO, dOut + headAt, first, length, qStride);
${fetchKeys}  if (tileBegin < tileEnd) fetchKeys(tileBegin, 0); else commitCopies();
  float d[DP / 8][4];
  #pragma unroll
  for (int j = 0; j < DP / 8; j++) d[j][0] = d[j][1] = d[j][2] = d[j][3] = 0.f;
  float scaleLog2 = scale * LOG2E;

  for (int keyTile = tileBegin; keyTile < tileEnd; keyTile++) {
    int buffer = STAGES == 2 ? (keyTile - tileBegin) & 1 : 0;
    if (STAGES == 1 && keyTile > tileBegin) fetchKeys(keyTile, 0);
    if (STAGES == 2 && keyTile + 1 < tileEnd) { fetchKeys(keyTile + 1, buffer ^ 1); waitCopies<1>(); } else waitCopies<0>();
    __syncthreads();
    const bf16* K = sK + buffer * BN * DS; const bf16* V = sV + buffer * BN * DS;
    float s[BN / 8][4], p[BN / 8][4];
    scoreProducts<BN>(s, p, sQ, K, sO, V, warp * 16);
    #pragma unroll
    for (int j = 0; j < BN / 8; j++)
      #pragma unroll
      for (int e = 0; e < 4; e++) {
        int key = keyTile * BN + j * 8 + 2 * t + (e & 1), h = e >> 1;
        float weight = (u32)(key - begin[h]) < seen[h] ? exp2Fast(s[j][e] * scaleLog2 - rowLog[h]) : 0.f;
        s[j][e] = weight * (p[j][e] - rowDelta[h]);
      }
    sumProduct<BN>(d, s, K);
    __syncthreads();
  }
  waitCopies<0>(); // with no key tile the queries are still on their way
  ${rotated
    ? `__syncthreads();
  Angles angles;
  i64 angle = ((i64)batch * length + warpRow) * HALF;
  loadAngles(angles, cosines + angle, sines + angle, length - warpRow);
  bf16* rows = sQ + warp * 16 * DS;
  placeRows(rows, d, scale);
  storeTurnedBack(dq + outAt + (i64)warpRow * outStride, outStride, length - warpRow, angles, [&](int row, int column) { return rows + row * DS + column; });`
    : `#pragma unroll
  for (int h = 0; h < 2; h++) {
    int row = warpRow + g + 8 * h;
    if (row >= length) continue;
    bf16* to = dq + outAt + (i64)row * outStride;
    #pragma unroll
    for (int j = 0; j < DP / 8; j++) {
      int column = j * 8 + 2 * t;
      if (column < D) *(u32*)(to + column) = packBf16(d[j][2 * h] * scale, d[j][2 * h + 1] * scale);
    }
  }`}
}`,
  };
};

/**
 * dk and dv [B,T,Hkv,D]; a block owns a tile of keys of one key head and sums over the queries of all its query heads.
 * Args: dk, dv, dOut, q, k, v, logSum, delta, bounds, cos, sin (of shapes that are rotated), length, stateLength, heads, kvHeads, batches, scale,
 * dk's and dv's stride (from position to position).
 */
export const attentionKeyGradientProgram = ({ batch, length, kvHeads, headSize, rotated }: AttentionShape): CudaProgram => ({
  key: `attention_dkv_${headSize}${rotationKey(rotated)}`,
  entry: 'attention_dkv',
  grid: [ceilDiv(length, OWN_ROWS), kvHeads, batch],
  block: [WARPS * 32, 1, 1],
  sharedBytes: (2 * OWN_ROWS + 4 * QUERIES) * tileStride(headSize) * 2 + 2 * QUERIES * 8,
  source: () => mmaCommon(headSize) + (rotated ? rotationCommon(headSize) + placeRows : '') + /* cuda */ `
constexpr int BN = ${OWN_ROWS}, BQ = ${QUERIES};
extern "C" __global__ void __launch_bounds__(THREADS) attention_dkv(bf16* dk, bf16* dv, const bf16* dOut, const bf16* q, const bf16* k, const bf16* v,
    const float* logSum, const float* delta, const int* bounds, const float* cosines, const float* sines, int length, int stateLength, int heads, int kvHeads, int batches,
    float scale, int outStride) {
  extern __shared__ __align__(16) unsigned char shared[];
  bf16* sK = (bf16*)shared; bf16* sV = sK + BN * DS; bf16* sQ = sV + BN * DS; bf16* sO = sQ + 2 * BQ * DS;
  float* sLog = (float*)(sO + 2 * BQ * DS); float* sDelta = sLog + 2 * BQ;
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  int first = blockIdx.x * BN, kvHead = blockIdx.y, batch = blockIdx.z, group = heads / kvHeads;
  i64 qStride = (i64)heads * D, kvStride = (i64)kvHeads * D;
  i64 kvAt = ((i64)batch * length * kvHeads + kvHead) * D, outAt = (i64)batch * length * outStride + kvHead * D;
  const int* ends = bounds + ((i64)batches + batch) * length;
  int highest = -1;
  for (int i = lane; i < BN; i += 32) if (first + i < length) highest = max(highest, ends[first + i]);
  highest = __reduce_max_sync(0xffffffffu, highest);
  int tileCount = highest < first ? 0 : (highest - first) / BQ + 1, total = tileCount * group;

  int warpKey = first + warp * 16;
  u32 seen[2]; // queries that see a key: key … key + seen - 1
  #pragma unroll
  for (int h = 0; h < 2; h++) {
    int key = warpKey + g + 8 * h, end = key < length ? ends[key] : -1;
    seen[h] = end < key ? 0 : end - key + 1;
  }
  auto fetchQueries = [&](int index, int buffer) {
    int head = kvHead * group + index / tileCount, start = first + index % tileCount * BQ;
    i64 headAt = ((i64)batch * length * heads + head) * D;
    fetch<BQ>(sQ + buffer * BQ * DS, q + headAt, start, length, qStride);
    fetch<BQ>(sO + buffer * BQ * DS, dOut + headAt, start, length, qStride);
    if (threadIdx.x < BQ) {
      int row = start + threadIdx.x, at = buffer * BQ + threadIdx.x;
      bool in = row < length;
      i64 from = ((i64)batch * heads + head) * stateLength + row;
      sLog[at] = in ? logSum[from] : INFINITY_F; sDelta[at] = in ? delta[from] : 0.f;
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
    int start = first + index % tileCount * BQ;
    float s[BQ / 8][4], p[BQ / 8][4];
    scoreProducts<BQ>(s, p, sK, Q, sV, O, warp * 16);
    // s becomes the weights, p the gradient of the scaled scores; rows are keys, columns queries.
    #pragma unroll
    for (int j = 0; j < BQ / 8; j++)
      #pragma unroll
      for (int e = 0; e < 4; e++) {
        int column = j * 8 + 2 * t + (e & 1), at = buffer * BQ + column, h = e >> 1;
        float weight = (u32)(start + column - warpKey - g - 8 * h) < seen[h] ? exp2Fast(s[j][e] * scaleLog2 - sLog[at]) : 0.f;
        s[j][e] = weight;
        p[j][e] = weight * (p[j][e] - sDelta[at]);
      }
    sumProduct<BQ>(dV, s, O);
    sumProduct<BQ>(dK, p, Q);
    __syncthreads();
  }
  waitCopies<0>();
  #pragma unroll
  for (int h = 0; h < 2; h++) {
    int key = warpKey + g + 8 * h;
    if (key >= length) continue;
    i64 at = outAt + (i64)key * outStride;
    #pragma unroll
    for (int j = 0; j < DP / 8; j++) {
      int column = j * 8 + 2 * t;
      if (column >= D) continue;
      ${rotated ? '' : '*(u32*)(dk + at + column) = packBf16(dK[j][2 * h] * scale, dK[j][2 * h + 1] * scale);\n      '}*(u32*)(dv + at + column) = packBf16(dV[j][2 * h], dV[j][2 * h + 1]);
    }
  }
${rotated
    ? `  __syncthreads(); // with no query the keys are still on their way
  Angles angles;
  i64 angle = ((i64)batch * length + warpKey) * HALF;
  loadAngles(angles, cosines + angle, sines + angle, length - warpKey);
  bf16* rows = sK + warp * 16 * DS;
  placeRows(rows, dK, scale);
  storeTurnedBack(dk + outAt + (i64)warpKey * outStride, outStride, length - warpKey, angles, [&](int row, int column) { return rows + row * DS + column; });
`
    : ''}}`,
});
