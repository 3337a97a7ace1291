/*
 * Attention of a decode step: one new position a row over its cached keys and values. Bound by the bytes of the cache. Queries and
 * the new key are normalised (where the model does) and rotated here, and the new key and value are written to the cache in place.
 * A block has one key head of one row and a range of positions, with all query heads that share it; the last block to finish adds the
 * ranges up in their order, so that the sum does not depend on which that is.
 */
import { ceilDiv, type CudaProgram, type KernelArgument } from '../program.js';

export interface DecodeAttentionShape {
  rows: number;
  heads: number;
  kvHeads: number;
  headSize: number;
  /** Positions of the cache a row has room for. */
  capacity: number;
  /** Positions a query sees, its own included. @default all */
  window?: number;
  /** Whether queries and keys are normalised (RMSNorm over a head). */
  normalized: boolean;
  /** Whether they are rotated. */
  rotated: boolean;
  multiprocessors: number;
}

export interface DecodeAttentionPlan {
  program: CudaProgram;
  /** What the launch takes last. */
  extent: KernelArgument[];
  /** Float32 values of scratch, and counters (zero at first, zero again after each launch). */
  partValues: number;
  counters: number;
}

const THREADS = 128;
/** Keys that a block scores at a time, eight lanes each. */
const KEYS = THREADS / 8;
/** Scores that a block may keep, in float32 values. */
const MOST_SCORES = 8192;

/**
 * Args: out bf16 [rows, H·D], keys, values (bf16 [slots, capacity, Hkv, D]), projected bf16 [rows, (H + 2 Hkv)·D], cosines, sines (float32
 * [capacity, D/2]), query and key norm (float32 [D] or null), positions, slots (i32 [rows]), parts, counters, eps, then `extent`.
 */
export function decodeAttentionPlan({ rows, heads, kvHeads, headSize, capacity, window, normalized, rotated, multiprocessors }: DecodeAttentionShape): DecodeAttentionPlan {
  const groups = heads / kvHeads;
  const seen = Math.min(capacity, window ?? capacity);
  // Two blocks a multiprocessor, but no range shorter than 32 keys, and none whose scores need too much shared memory.
  const wanted = Math.min(ceilDiv(2 * multiprocessors, rows * kvHeads), ceilDiv(seen, 32));
  const splits = Math.max(1, wanted, ceilDiv((seen + KEYS) * groups, MOST_SCORES));
  const limit = ceilDiv(ceilDiv(seen, splits), KEYS) * KEYS;
  const vectors = headSize / 4, keyGroups = Math.max(1, Math.floor(THREADS / vectors));
  const partSize = groups * (headSize + 2);
  return {
    partValues: splits > 1 ? rows * kvHeads * splits * partSize : 0,
    counters: splits > 1 ? rows * kvHeads : 0,
    extent: [capacity, window ?? 0, splits, limit],
    program: {
      key: `decode_attention_${headSize}_${groups}_${kvHeads}_${splits > 1 ? 'split' : 'whole'}_${normalized ? 'n' : ''}${rotated ? 'r' : ''}`,
      entry: 'decode_attention',
      grid: [splits, kvHeads, rows],
      block: [THREADS, 1, 1],
      sharedBytes: 4 * groups * limit,
      source: () => /* cuda */ `
constexpr int D = ${headSize}, HALF = D / 2, G = ${groups}, VECTORS = D / 4, KEY_GROUPS = ${keyGroups}, KV_HEADS = ${kvHeads};
/** Normalises a head of D values in place, with all threads of a warp. */
__device__ __forceinline__ void normalize(float* head, const float* weight, float eps, int lane) {
  float squares = 0.f;
  for (int i = lane; i < D; i += WARP) squares += head[i] * head[i];
  float r = rsqrtf(warpSum(squares) / D + eps);
  for (int i = lane; i < D; i += WARP) head[i] *= r * weight[i];
  __syncwarp();
}
extern "C" __global__ void __launch_bounds__(${THREADS}) decode_attention(bf16* out, bf16* keys, bf16* values, const bf16* projected, const float* cosines, const float* sines,
  const float* queryNorm, const float* keyNorm, const int* positions, const int* slots, float* parts, u32* counters, float eps, int capacity, int window, int splits, int limit) {
  extern __shared__ float scores[]; // [G][limit]
  __shared__ __align__(16) float heads_[G + 1][D]; // queries, then the new key, as float32
  __shared__ __align__(16) float sums[KEY_GROUPS][G][D];
  __shared__ float total[G];${splits > 1 ? ' __shared__ float high[G];' : ''}
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  int split = blockIdx.x, head = blockIdx.y, row = blockIdx.z;
  int position = positions[row];
  i64 base = ((i64)slots[row] * capacity * KV_HEADS + head) * D; // of position 0; from one position to the next: KV_HEADS * D
  int begin = window ? max(0, position + 1 - window) : 0;
  int each = ((position - begin) / splits / ${KEYS} + 1) * ${KEYS}; // covers position + 1 - begin keys in splits ranges
  int from = begin + split * each, count = max(0, min(from + each, position + 1) - from);
  bool hasNewest = count > 0 && from + count == position + 1;
  const bf16* in = projected + (i64)row * (KV_HEADS * (G + 2)) * D;
  for (int i = threadIdx.x; i < G * D; i += ${THREADS}) heads_[0][i] = toFloat(in[head * G * D + i]);
  if (hasNewest) for (int i = threadIdx.x; i < D; i += ${THREADS}) {
    heads_[G][i] = toFloat(in[(KV_HEADS * G + head) * D + i]);
    values[base + (i64)position * KV_HEADS * D + i] = in[(KV_HEADS * (G + 1) + head) * D + i];
  }
  __syncthreads();
  ${normalized ? `for (int h = warp; h <= G; h += ${THREADS / 32}) if (h < G || hasNewest) normalize(heads_[h], h < G ? queryNorm : keyNorm, eps, lane);
  __syncthreads();` : ''}
  for (int i = threadIdx.x; i < (G + 1) * HALF; i += ${THREADS}) {
    int h = i / HALF, j = i % HALF;
    if (h == G && !hasNewest) continue;
    float u = heads_[h][j], v = heads_[h][j + HALF], c = ${rotated ? 'cosines[(i64)position * HALF + j]' : '1.f'}, s = ${rotated ? 'sines[(i64)position * HALF + j]' : '0.f'};
    float p = u * c - v * s, q = v * c + u * s;
    if (h < G) { heads_[h][j] = p * ${(1 / Math.sqrt(headSize)).toFixed(10)}f; heads_[h][j + HALF] = q * ${(1 / Math.sqrt(headSize)).toFixed(10)}f; }
    else {
      bf16* to = keys + base + (i64)position * KV_HEADS * D;
      to[j] = toBf16(p);
      to[j + HALF] = toBf16(q);
    }
  }
  __syncthreads(); // also orders the new key and value before this block's reads of them

  const bf16* keyRows = keys + base + (i64)from * KV_HEADS * D;
  int part = threadIdx.x & 7;
  #pragma unroll 2
  for (int k0 = 0; k0 < count; k0 += ${KEYS}) {
    int k = k0 + (threadIdx.x >> 3);
    float dot[G];
    #pragma unroll
    for (int h = 0; h < G; h++) dot[h] = 0.f;
    if (k < count)
      #pragma unroll
      for (int v0 = 0; v0 < VECTORS; v0 += 8) {
        int v = v0 + part;
        if (v < VECTORS) {
          Pack<bf16, 4> x = loadPack<4>(keyRows + (i64)k * KV_HEADS * D + v * 4);
          #pragma unroll
          for (int h = 0; h < G; h++) {
            Pack<float, 4> q = loadPack<4>(&heads_[h][v * 4]);
            #pragma unroll
            for (int i = 0; i < 4; i++) dot[h] += q.v[i] * toFloat(x.v[i]);
          }
        }
      }
    #pragma unroll
    for (int h = 0; h < G; h++) {
      #pragma unroll
      for (int i = 4; i; i >>= 1) dot[h] += __shfl_xor_sync(0xffffffffu, dot[h], i);
      if (part == 0 && k < count) scores[h * limit + k] = dot[h];
    }
  }
  __syncthreads();
  for (int h = warp; h < G; h += ${THREADS / 32}) {
    float most = -INFINITY_F, sum = 0.f;
    for (int k = lane; k < count; k += WARP) most = fmaxf(most, scores[h * limit + k]);
    most = warpMax(most);
    for (int k = lane; k < count; k += WARP) { float e = __expf(scores[h * limit + k] - most); scores[h * limit + k] = e; sum += e; }
    sum = warpSum(sum);
    if (lane == 0) { ${splits > 1 ? 'high[h] = most;' : ''} total[h] = sum; }
  }
  __syncthreads();
  int vector = threadIdx.x % VECTORS, keyGroup = threadIdx.x / VECTORS;
  if (keyGroup < KEY_GROUPS) {
    float acc[G][4];
    #pragma unroll
    for (int h = 0; h < G; h++) acc[h][0] = acc[h][1] = acc[h][2] = acc[h][3] = 0.f;
    const bf16* valueRows = values + base + (i64)from * KV_HEADS * D + vector * 4;
    #pragma unroll 4
    for (int k = keyGroup; k < count; k += KEY_GROUPS) {
      Pack<bf16, 4> x = loadPack<4>(valueRows + (i64)k * KV_HEADS * D);
      #pragma unroll
      for (int h = 0; h < G; h++) {
        float p = scores[h * limit + k];
        #pragma unroll
        for (int i = 0; i < 4; i++) acc[h][i] += p * toFloat(x.v[i]);
      }
    }
    #pragma unroll
    for (int h = 0; h < G; h++)
      #pragma unroll
      for (int i = 0; i < 4; i++) sums[keyGroup][h][vector * 4 + i] = acc[h][i];
  }
  __syncthreads();
  bf16* to = out + ((i64)row * KV_HEADS + head) * G * D;
  ${splits === 1
    ? `for (int i = threadIdx.x; i < G * D; i += ${THREADS}) {
    float sum = 0.f;
    #pragma unroll
    for (int g = 0; g < KEY_GROUPS; g++) sum += sums[g][0][i];
    to[i] = toBf16(sum / total[i / D]);
  }`
    : `constexpr int PART = ${partSize};
  __shared__ bool isLast;
  i64 place = (i64)row * KV_HEADS + head;
  float* own = parts + (place * splits + split) * PART;
  for (int i = threadIdx.x; i < G * D; i += ${THREADS}) {
    float sum = 0.f;
    #pragma unroll
    for (int g = 0; g < KEY_GROUPS; g++) sum += sums[g][0][i];
    own[i] = sum;
  }
  for (int h = threadIdx.x; h < G; h += ${THREADS}) { own[G * D + h] = high[h]; own[G * (D + 1) + h] = total[h]; }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) isLast = atomicAdd(counters + place, 1u) == (u32)splits - 1;
  __syncthreads();
  if (!isLast) return;
  __threadfence();
  if (threadIdx.x == 0) counters[place] = 0;
  const float* all = parts + place * splits * PART;
  for (int i = threadIdx.x; i < G * D; i += ${THREADS}) {
    int h = i / D;
    float most = -INFINITY_F, sum = 0.f, weight = 0.f;
    for (int s = 0; s < splits; s++) most = fmaxf(most, __ldcg(all + s * PART + G * D + h));
    for (int s = 0; s < splits; s++) {
      float factor = __expf(__ldcg(all + s * PART + G * D + h) - most); // an empty range has -infinity and counts nothing
      sum += factor * __ldcg(all + s * PART + i);
      weight += factor * __ldcg(all + s * PART + G * (D + 1) + h);
    }
    to[i] = toBf16(sum / weight);
  }`}
}`,
    },
  };
}
