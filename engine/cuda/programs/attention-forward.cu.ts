/*
 * Attention's forward pass on any card, in tiles that never leave the multiprocessor (FlashAttention-2, arXiv 2307.08691): bf16 operands,
 * float32 scores and sums. Bound by the tensor cores and, within a multiprocessor, by reading operand tiles from shared
 * memory: 140 to 180 TFLOP/s on an H100 at 4 x 2048 tokens, heads of 100; two tiles of 16 rows a warp spilled and were slower.
 */
import { ceilDiv, type CudaProgram } from '../program.js';
import { fetchKeys, keyRange, mmaCommon, OWN_ROWS, tileStride, WARPS } from './attention-mma.cu.js';
import type { AttentionShape } from './attention-shape.js';

/** Keys of a tile. */
const KEYS = 64;

/**
 * out [B,T,H,D], whose positions may lie apart (zeros between them), and logSum [B,H,stateLength] (base 2, of the scaled scores) from
 * q [B,T,H,D], k and v [B,T,Hkv,D]. Args: out, logSum, q, k, v, bounds, length, stateLength, heads, kvHeads, batches, scale, out's stride.
 */
export const attentionProgram = ({ batch, length, heads, headSize }: AttentionShape): CudaProgram => ({
  key: `attention_${headSize}`,
  entry: 'attention',
  grid: [ceilDiv(length, OWN_ROWS), heads, batch],
  block: [WARPS * 32, 1, 1],
  sharedBytes: 4 * KEYS * tileStride(headSize) * 2,
  source: () => mmaCommon(headSize) + /* cuda */ `
constexpr int BM = ${OWN_ROWS}, BN = ${KEYS};
extern "C" __global__ void __launch_bounds__(THREADS, 3) attention(bf16* out, float* logSum, const bf16* q, const bf16* k, const bf16* v,
    const int* bounds, int length, int stateLength, int heads, int kvHeads, int batches, float scale, int outStride) {
  extern __shared__ __align__(16) unsigned char shared[];
  bf16* sK = (bf16*)shared; bf16* sV = sK + 2 * BN * DS;
  bf16* sQ = sV + BN * DS; // moved to registers before the second buffer of values is filled
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  // The longest tiles first: with causal masking the last queries have the most keys.
  int tile = gridDim.x - 1 - blockIdx.x, head = blockIdx.y, batch = blockIdx.z, first = tile * BM;
  i64 qStride = (i64)heads * D, kvStride = (i64)kvHeads * D;
  const bf16* qHead = q + ((i64)batch * length * heads + head) * D;
${keyRange}  #pragma unroll
  for (int h = 0; h < 2; h++) {
    int row = warpRow + g + 8 * h;
    begin[h] = row < length ? begins[row] : SEES_NOTHING;
    seen[h] = begin[h] > row ? 0 : row - begin[h] + 1;
  }
  int highest = __reduce_max_sync(0xffffffffu, max(begin[0], begin[1]));

${fetchKeys}  static_assert(BM <= BN, "the queries borrow a buffer of values");
  fetch<BM>(sQ, qHead, first, length, qStride);
  commitCopies();
  if (tileBegin < tileEnd) fetchKeys(tileBegin, 0); else commitCopies();
  waitCopies<1>();
  __syncthreads();
  u32 qa[DP / 16][4];
  #pragma unroll
  for (int step = 0; step < DP / 16; step++) loadRows(qa[step], sQ, warp * 16, step);
  __syncthreads();

  float o[DP / 8][4], top[2] = { -INFINITY_F, -INFINITY_F }, sum[2] = { 0.f, 0.f };
  #pragma unroll
  for (int j = 0; j < DP / 8; j++) o[j][0] = o[j][1] = o[j][2] = o[j][3] = 0.f;
  float scaleLog2 = scale * LOG2E;

  for (int keyTile = tileBegin; keyTile < tileEnd; keyTile++) {
    int buffer = (keyTile - tileBegin) & 1, start = keyTile * BN;
    if (keyTile + 1 < tileEnd) { fetchKeys(keyTile + 1, buffer ^ 1); waitCopies<1>(); } else waitCopies<0>();
    __syncthreads();
    const bf16* K = sK + buffer * BN * DS; const bf16* V = sV + buffer * BN * DS;
    float s[BN / 8][4];
    #pragma unroll
    for (int j = 0; j < BN / 8; j++) s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.f;
    #pragma unroll
    for (int step = 0; step < DP / 16; step++)
      #pragma unroll
      for (int j = 0; j < BN / 16; j++) {
        u32 b[4];
        loadColumns(b, K, j * 16, step);
        mma(s[2 * j], qa[step], b[0], b[1]); mma(s[2 * j + 1], qa[step], b[2], b[3]);
      }
    if (start + BN - 1 > warpRow || start < highest) { // some query of the warp does not see some key
      #pragma unroll
      for (int j = 0; j < BN / 8; j++)
        #pragma unroll
        for (int e = 0; e < 4; e++)
          if ((u32)(start + j * 8 + 2 * t + (e & 1) - begin[e >> 1]) >= seen[e >> 1]) s[j][e] = -INFINITY_F;
    }
    #pragma unroll
    for (int h = 0; h < 2; h++) {
      float high = top[h];
      #pragma unroll
      for (int j = 0; j < BN / 8; j++) high = fmaxf(high, fmaxf(s[j][2 * h], s[j][2 * h + 1]));
      high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
      high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
      float base = high == -INFINITY_F ? 0.f : high * scaleLog2; // a row that has seen no key yet
      float correction = exp2Fast(top[h] * scaleLog2 - base), part = 0.f;
      #pragma unroll
      for (int j = 0; j < BN / 8; j++)
        #pragma unroll
        for (int e = 2 * h; e < 2 * h + 2; e++) { s[j][e] = exp2Fast(s[j][e] * scaleLog2 - base); part += s[j][e]; }
      sum[h] = sum[h] * correction + part;
      top[h] = high;
      #pragma unroll
      for (int j = 0; j < DP / 8; j++) { o[j][2 * h] *= correction; o[j][2 * h + 1] *= correction; }
    }
    sumProduct<BN>(o, s, V);
    __syncthreads();
  }
  #pragma unroll
  for (int h = 0; h < 2; h++) {
    float total = sum[h];
    total += __shfl_xor_sync(0xffffffffu, total, 1);
    total += __shfl_xor_sync(0xffffffffu, total, 2);
    int row = warpRow + g + 8 * h;
    if (row >= length) continue;
    float inverse = total > 0.f ? 1.f / total : 0.f;
    // A row without keys weighs nothing in the backward pass either: exp2(s - infinity) = 0.
    if (t == 0) logSum[((i64)batch * heads + head) * stateLength + row] = total > 0.f ? top[h] * scaleLog2 + log2f(total) : INFINITY_F;
    bf16* position = out + ((i64)batch * length + row) * outStride; bf16* to = position + head * D;
    if (head == 0) for (int column = heads * D + 8 * t; column < outStride; column += 32) storePack<8>(position + column, Pack<bf16, 8>{});
    #pragma unroll
    for (int j = 0; j < DP / 8; j++) {
      int column = j * 8 + 2 * t;
      if (column < D) *(u32*)(to + column) = packBf16(o[j][2 * h] * inverse, o[j][2 * h + 1] * inverse);
    }
  }
}`,
});
