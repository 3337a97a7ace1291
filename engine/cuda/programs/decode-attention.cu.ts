/*
 * Attention of a decode step: one new position a row over its cached keys and values. Bound by the bytes of the cache. A block has one key
 * head of one row and a range of positions, with all query heads that share it; it takes its keys and values through shared memory,
 * a tile at a time, the first one before the launch before has ended. Queries and the new key are normalised (where the model does) and rotated
 * here, and the new key and value are written to the cache in place. The last block of a row and head to finish adds the ranges up in
 * their order, so that the sum does not depend on which that is.
 * v1 (H100, 32 heads of 100, 130 positions: 18 us for one row, 47 us for 64) read keys and values where they are used.
 */
import { overlapFunctions } from '../overlapping-launch.js';
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
/** Keys at a time: few, so that many blocks share a multiprocessor and some of them wait for memory while others compute. */
const TILE = 32;

/**
 * Args: out bf16 [rows, H·D], keys, values (bf16 [slots, capacity, Hkv, D]), projected bf16 [rows, (H + 2 Hkv)·D], cosines, sines (float32
 * [capacity, D/2]), query and key norm (float32 [D] or null), positions, slots (i32 [rows]), parts, counters, eps, then `extent`.
 */
export function decodeAttentionPlan({ rows, heads, kvHeads, headSize, capacity, window, normalized, rotated, multiprocessors }: DecodeAttentionShape): DecodeAttentionPlan {
  const groups = heads / kvHeads;
  const seen = Math.min(capacity, window ?? capacity);
  const tile = TILE;
  const splits = Math.max(1, Math.min(ceilDiv(2 * multiprocessors, rows * kvHeads), ceilDiv(seen, tile)));
  const vectors = headSize / 4, keyGroups = Math.max(1, Math.floor(THREADS / vectors));
  const partSize = groups * (headSize + 2);
  /** Values that one asynchronous copy moves: rows begin at multiples of it. */
  const moved = headSize % 8 === 0 ? 8 : 4;
  return {
    partValues: splits > 1 ? rows * kvHeads * splits * partSize : 0,
    counters: splits > 1 ? rows * kvHeads : 0,
    extent: [capacity, window ?? 0, splits],
    program: {
      key: `decode_attention_${headSize}_${groups}_${kvHeads}_${splits > 1 ? 'split' : 'whole'}_${normalized ? 'n' : ''}${rotated ? 'r' : ''}`,
      entry: 'decode_attention',
      grid: [splits, kvHeads, rows],
      block: [THREADS, 1, 1],
      sharedBytes: 2 * tile * headSize * 2,
      overlaps: true,
      source: () => overlapFunctions + /* cuda */ `
constexpr int D = ${headSize}, HALF = D / 2, G = ${groups}, VECTORS = D / 4, KEY_GROUPS = ${keyGroups}, TILE = ${tile}, MOVED = ${moved}, KV_HEADS = ${kvHeads};
/** Normalises a head of D values in place, with all threads of a warp. */
__device__ __forceinline__ void normalize(float* head, const float* weight, float eps, int lane) {
  float squares = 0.f;
  for (int i = lane; i < D; i += WARP) squares += head[i] * head[i];
  float r = rsqrtf(warpSum(squares) / D + eps);
  for (int i = lane; i < D; i += WARP) head[i] *= r * weight[i];
  __syncwarp();
}
extern "C" __global__ void __launch_bounds__(${THREADS}) decode_attention(bf16* out, bf16* keys, bf16* values, const bf16* projected, const float* cosines, const float* sines,
  const float* queryNorm, const float* keyNorm, const int* positions, const int* slots, float* parts, u32* counters, float eps, int capacity, int window, int splits) {
  extern __shared__ __align__(16) bf16 staged[]; // keys, then values, [TILE][D] each
  __shared__ __align__(16) float heads_[G + 1][D]; // queries, then the new key, as float32
  __shared__ __align__(16) bf16 newest[2][D];
  __shared__ __align__(16) float sums[KEY_GROUPS][G][D];
  __shared__ float scores[G][TILE], high[G], total[G], factor[G];
  letNextBegin();
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  int split = blockIdx.x, head = blockIdx.y, row = blockIdx.z;
  int position = positions[row];
  i64 base = ((i64)slots[row] * capacity * KV_HEADS + head) * D; // of position 0; from one position to the next: KV_HEADS * D
  int begin = window ? max(0, position + 1 - window) : 0;
  int each = ((position - begin) / splits / TILE + 1) * TILE; // covers position + 1 - begin keys in splits ranges
  int from = begin + split * each, count = min(from + each, position + 1) - from;
  if (count <= 0) return;
  bool hasNewest = from + count == position + 1;
  auto stage = [&](int k0) {
    int size = min(TILE, min(from + count, position) - from - k0); // the newest is not in the cache yet
    i64 at = base + (i64)(from + k0) * KV_HEADS * D;
    for (int p = threadIdx.x; p < size * (D / MOVED); p += ${THREADS}) {
      int k = p / (D / MOVED), v = p % (D / MOVED) * MOVED;
      copyAsync<MOVED * 2>(staged + k * D + v, keys + at + (i64)k * KV_HEADS * D + v, true);
      copyAsync<MOVED * 2>(staged + (TILE + k) * D + v, values + at + (i64)k * KV_HEADS * D + v, true);
    }
    commitCopies();
  };
  stage(0);
  waitForPrevious();
  const bf16* in = projected + (i64)row * (KV_HEADS * (G + 2)) * D;
  for (int i = threadIdx.x; i < G * D; i += ${THREADS}) heads_[i / D][i % D] = toFloat(in[head * G * D + i]);
  if (hasNewest) for (int i = threadIdx.x; i < D; i += ${THREADS}) {
    heads_[G][i] = toFloat(in[(KV_HEADS * G + head) * D + i]);
    newest[1][i] = values[base + (i64)position * KV_HEADS * D + i] = in[(KV_HEADS * (G + 1) + head) * D + i];
  }
  for (int h = threadIdx.x; h < G; h += ${THREADS}) { high[h] = -INFINITY_F; total[h] = 0.f; }
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
      newest[0][j] = to[j] = toBf16(p);
      newest[0][j + HALF] = to[j + HALF] = toBf16(q);
    }
  }

  int part = threadIdx.x & 7, vector = threadIdx.x % VECTORS, keyGroup = threadIdx.x / VECTORS;
  float acc[G][4];
  #pragma unroll
  for (int h = 0; h < G; h++) acc[h][0] = acc[h][1] = acc[h][2] = acc[h][3] = 0.f;
  for (int k0 = 0; k0 < count; k0 += TILE) {
    waitCopies<0>();
    __syncthreads();
    int size = min(TILE, count - k0);
    bf16* keyTile = staged; bf16* valueTile = staged + TILE * D;
    if (hasNewest && k0 + size == count) {
      for (int i = threadIdx.x; i < D; i += ${THREADS}) { keyTile[(size - 1) * D + i] = newest[0][i]; valueTile[(size - 1) * D + i] = newest[1][i]; }
      __syncthreads();
    }
    #pragma unroll
    for (int k1 = 0; k1 < TILE; k1 += ${THREADS / 8}) {
      int k = k1 + (threadIdx.x >> 3);
      float dot[G];
      #pragma unroll
      for (int h = 0; h < G; h++) dot[h] = 0.f;
      if (k < size)
        #pragma unroll
        for (int v0 = 0; v0 < VECTORS; v0 += 8) {
          int v = v0 + part;
          if (v < VECTORS) {
            Pack<bf16, 4> x = loadPack<4>(keyTile + k * D + v * 4);
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
        if (part == 0) scores[h][k] = k < size ? dot[h] : -INFINITY_F;
      }
    }
    __syncthreads();
    for (int h = warp; h < G; h += ${THREADS / 32}) {
      float most = high[h], sum = 0.f;
      #pragma unroll
      for (int k = 0; k < TILE; k += WARP) most = fmaxf(most, scores[h][k + lane]);
      most = warpMax(most);
      #pragma unroll
      for (int k = 0; k < TILE; k += WARP) { float e = __expf(scores[h][k + lane] - most); scores[h][k + lane] = e; sum += e; }
      sum = warpSum(sum);
      if (lane == 0) { float less = __expf(high[h] - most); factor[h] = less; high[h] = most; total[h] = total[h] * less + sum; }
    }
    __syncthreads();
    if (keyGroup < KEY_GROUPS) {
      #pragma unroll
      for (int h = 0; h < G; h++)
        #pragma unroll
        for (int i = 0; i < 4; i++) acc[h][i] *= factor[h];
      #pragma unroll 4
      for (int k = keyGroup; k < size; k += KEY_GROUPS) {
        Pack<bf16, 4> x = loadPack<4>(valueTile + k * D + vector * 4);
        #pragma unroll
        for (int h = 0; h < G; h++) {
          float p = scores[h][k];
          #pragma unroll
          for (int i = 0; i < 4; i++) acc[h][i] += p * toFloat(x.v[i]);
        }
      }
    }
    __syncthreads();
    if (k0 + TILE < count) stage(k0 + TILE);
  }
  if (keyGroup < KEY_GROUPS)
    #pragma unroll
    for (int h = 0; h < G; h++)
      #pragma unroll
      for (int i = 0; i < 4; i++) sums[keyGroup][h][vector * 4 + i] = acc[h][i];
  __syncthreads();
  bf16* to = out + ((i64)row * KV_HEADS + head) * G * D;
  ${splits === 1
    ? `for (int i = threadIdx.x; i < G * D; i += ${THREADS}) {
    float sum = 0.f;
    #pragma unroll
    for (int g = 0; g < KEY_GROUPS; g++) sum += sums[g][i / D][i % D];
    to[i] = toBf16(sum / total[i / D]);
  }`
    : `constexpr int PART = ${partSize};
  __shared__ bool isLast;
  i64 place = (i64)row * KV_HEADS + head;
  int ranges = (position - begin) / each + 1; // those that have keys
  float* own = parts + (place * splits + split) * PART;
  for (int i = threadIdx.x; i < G * D; i += ${THREADS}) {
    float sum = 0.f;
    #pragma unroll
    for (int g = 0; g < KEY_GROUPS; g++) sum += sums[g][i / D][i % D];
    own[i] = sum;
  }
  for (int h = threadIdx.x; h < G; h += ${THREADS}) { own[G * D + h] = high[h]; own[G * (D + 1) + h] = total[h]; }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) isLast = atomicAdd(counters + place, 1u) == (u32)ranges - 1;
  __syncthreads();
  if (!isLast) return;
  __threadfence();
  if (threadIdx.x == 0) counters[place] = 0;
  const float* all = parts + place * splits * PART;
  for (int i = threadIdx.x; i < G * D; i += ${THREADS}) {
    int h = i / D;
    float most = -INFINITY_F, sum = 0.f, weight = 0.f;
    #pragma unroll 8
    for (int s = 0; s < ranges; s++) most = fmaxf(most, __ldcg(all + s * PART + G * D + h));
    #pragma unroll 8
    for (int s = 0; s < ranges; s++) {
      float share = __expf(__ldcg(all + s * PART + G * D + h) - most);
      sum += share * __ldcg(all + s * PART + i);
      weight += share * __ldcg(all + s * PART + G * (D + 1) + h);
    }
    to[i] = toBf16(sum / weight);
  }`}
}`,
    },
  };
}
