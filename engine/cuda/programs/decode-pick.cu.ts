/*
 * The next token of each row, from its logits: the likeliest, or one drawn as engine/model/sample.ts draws. A block a row. Weights are
 * whole numbers in units of 2^-40 of the likeliest token's, so that their sums do not depend on the order in which threads add them.
 */
import { overlapFunctions } from '../overlapping-launch.js';
import type { CudaProgram } from '../program.js';
import { decodeState } from './decode-ops.cu.js';

const THREADS = 1024;

/** Writes the token and moves the row on by one; a row that has filled its room stays where it is. */
const advance = /* cuda */ `
__device__ __forceinline__ void advance(int* state, int room, int row, int token, int capacity) {
  state[${decodeState.token} * room + row] = token;
  state[${decodeState.position} * room + row] = min(state[${decodeState.position} * room + row] + 1, capacity - 1);
  state[${decodeState.place} * room + row]++;
}
struct Best { float value; int index; };
__device__ __forceinline__ Best better(Best a, Best b) { return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a; }
/** The largest value of a row, the first of equals; the same in every thread. */
__device__ __forceinline__ Best likeliest(const float* x, int count) {
  __shared__ Best parts[${THREADS / 32}];
  Best best = { -INFINITY_F, 0x7fffffff };
  #pragma unroll 8
  for (int i = threadIdx.x; i < count; i += ${THREADS}) best = better(best, Best{ x[i], i });
  #pragma unroll
  for (int i = 16; i; i >>= 1) best = better(best, Best{ __shfl_xor_sync(0xffffffffu, best.value, i), __shfl_xor_sync(0xffffffffu, best.index, i) });
  if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = best;
  __syncthreads();
  best = parts[0];
  for (int i = 1; i < ${THREADS / 32}; i++) best = better(best, parts[i]);
  if (best.index == 0x7fffffff) best.index = 0; // a row of NaN
  return best;
}
`;

/** Args: state, room, logits float32 [rows, vocabulary], vocabulary, capacity. */
export const decodeArgMaxProgram = (rows: number): CudaProgram => ({
  key: 'decode_arg_max',
  entry: 'decode_arg_max',
  grid: [rows, 1, 1],
  block: [THREADS, 1, 1],
  overlaps: true,
  source: () => overlapFunctions + advance + /* cuda */ `
extern "C" __global__ void __launch_bounds__(${THREADS}) decode_arg_max(int* state, int room, const float* logits, int vocabulary, int capacity) {
  waitForPrevious();
  Best best = likeliest(logits + (i64)blockIdx.x * vocabulary, vocabulary);
  if (threadIdx.x == 0) advance(state, room, blockIdx.x, best.index, capacity);
}`,
});

/**
 * Args: state, room, logits, vocabulary, capacity, 1 / temperature, topP, topK, the seed's two halves. `ordered`: with topP or topK, the
 * tokens are taken in the order of their logits; without, in the order of their ids but the likeliest first.
 */
export const decodeSampleProgram = (rows: number, ordered: boolean): CudaProgram => ({
  key: `decode_sample_${ordered ? 'ordered' : 'all'}`,
  entry: 'decode_sample',
  grid: [rows, 1, 1],
  block: [THREADS, 1, 1],
  overlaps: true,
  source: () => overlapFunctions + advance + /* cuda */ `
constexpr int THREADS = ${THREADS};
struct Row { const float* logits; int count; float best, inverseTemperature; };
__device__ __forceinline__ u64 weightOf(const Row& row, int i) { return (u64)(__expf((row.logits[i] - row.best) * row.inverseTemperature) * 1099511627776.f); }
/** Sum over all threads before this one, and over all. */
__device__ __forceinline__ u64 sumBefore(u64 x, u64& total) {
  __shared__ u64 warps[THREADS / 32];
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  u64 sum = x;
  #pragma unroll
  for (int i = 1; i < 32; i <<= 1) { u64 y = __shfl_up_sync(0xffffffffu, sum, i); if (lane >= i) sum += y; }
  __syncthreads();
  if (lane == 31) warps[warp] = sum;
  __syncthreads();
  u64 before = 0;
  total = 0;
  for (int i = 0; i < THREADS / 32; i++) { if (i < warp) before += warps[i]; total += warps[i]; }
  return before + sum - x;
}
/** floor(total · (word + 1/2) / 2^32) */
__device__ __forceinline__ u64 share(u64 total, u32 word) {
  u64 odd = 2ull * word + 1;
  return (__umul64hi(total, odd) << 31) | ((total * odd) >> 33);
}
${ordered
  ? `/** Ascending keys are descending logits, then ascending ids, which have 22 bits. */
__device__ __forceinline__ u64 keyOf(const Row& row, int i) {
  u32 bits = __float_as_uint(row.logits[i] + 0.f); // no negative zero
  u32 ascending = bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
  return (u64)~ascending << 22 | (u32)i;
}
/**
 * The key of the first token at which the sum over the tokens in order exceeds target, of those up to the key last; before: the sum
 * of those before it. Goes down the key's digits of 11 bits, with a histogram of each.
 */
template <bool COUNTING> __device__ u64 descend(const Row& row, u64 target, u64 last, u64& before) {
  constexpr int BINS = 2048;
  __shared__ u64 bins[BINS];
  __shared__ u64 found, left;
  u64 prefix = 0, rest = target;
  for (int shift = 44; shift >= 0; shift -= 11) {
    for (int i = threadIdx.x; i < BINS; i += THREADS) bins[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < row.count; i += THREADS) {
      u64 key = keyOf(row, i);
      if (key > last || key >> (shift + 11) != prefix) continue;
      u64 weight = COUNTING ? 1 : weightOf(row, i);
      if (weight) atomicAdd(&bins[key >> shift & (BINS - 1)], weight);
    }
    __syncthreads();
    u64 first = bins[2 * threadIdx.x], second = bins[2 * threadIdx.x + 1], total;
    u64 below = sumBefore(first + second, total);
    if (below <= rest && rest < below + first) { found = prefix << 11 | (2 * threadIdx.x); left = rest - below; }
    else if (below + first <= rest && rest < below + first + second) { found = prefix << 11 | (2 * threadIdx.x + 1); left = rest - below - first; }
    __syncthreads();
    prefix = found; rest = left;
    __syncthreads();
  }
  before = target - rest;
  return prefix;
}
__device__ __forceinline__ u64 sumUpTo(const Row& row, u64 last) {
  u64 sum = 0, total;
  for (int i = threadIdx.x; i < row.count; i += THREADS) if (keyOf(row, i) <= last) sum += weightOf(row, i);
  sumBefore(sum, total);
  return total;
}`
  : ''}
extern "C" __global__ void __launch_bounds__(${THREADS}) decode_sample(int* state, int room, const float* logits, int vocabulary, int capacity, float inverseTemperature, float topP, int topK, u32 key0, u32 key1) {
  waitForPrevious();
  Row row = { logits + (i64)blockIdx.x * vocabulary, vocabulary, 0.f, inverseTemperature };
  Best best = likeliest(row.logits, vocabulary);
  row.best = best.value;
  u32 words[4];
  philox<10>(words, 0, (u32)state[${decodeState.place} * room + blockIdx.x], (u32)state[${decodeState.stream} * room + blockIdx.x], key0, key1);
  __shared__ int chosen;
  if (threadIdx.x == 0) chosen = best.index;
  __syncthreads();
  ${ordered
    ? `u64 before, last = ~0ull;
  if (topK < vocabulary) last = descend<true>(row, topK - 1, last, before);
  u64 reached = sumUpTo(row, last);
  if (topP < 1.f) {
    u64 wanted = max((u64)ceil((double)topP * (double)reached), 1ull);
    last = descend<false>(row, min(wanted, reached) - 1, last, before);
    reached = sumUpTo(row, last);
  }
  if (reached > 0) {
    u64 key = descend<false>(row, share(reached, words[0]), last, before);
    if (threadIdx.x == 0) chosen = (int)(key & 0x3fffffu);
  }`
    : `// Place 0 has the likeliest token, whose own place has token 0; each thread has a run of places.
  int each = (vocabulary + THREADS - 1) / THREADS, from = threadIdx.x * each, to = min(from + each, vocabulary);
  auto tokenAt = [&](int place) { return place == 0 ? best.index : place == best.index ? 0 : place; };
  u64 sum = 0, total;
  for (int i = from; i < to; i++) sum += weightOf(row, tokenAt(i));
  u64 before = sumBefore(sum, total), target = share(total, words[0]);
  if (before <= target && target < before + sum) {
    u64 running = before;
    for (int i = from; i < to; i++) {
      running += weightOf(row, tokenAt(i));
      if (target < running) { chosen = tokenAt(i); break; }
    }
  }`}
  __syncthreads();
  if (threadIdx.x == 0) advance(state, room, blockIdx.x, chosen, capacity);
}`,
});
