/* The small parts of a decode step: embedding, RMSNorm with the down projections of the LoRA branches behind it, and the rows' state. */
import { overlapFunctions } from '../overlapping-launch.js';
import { ceilDiv, type CudaProgram } from '../program.js';

/** Rows of the state, each with a value a row of the batch: see `decodeStateRows`. */
export const decodeState = { token: 0, position: 1, slot: 2, stream: 3, place: 4 } as const;
/** Rows of the state. A row's token to be read next, that token's position, its slot in the cache, its number among the prompts, and how many tokens it has written. */
export const decodeStateRows = 5;

/** The residual stream's first value, in float32. Args: out, table bf16 [vocabulary, width], tokens, width. */
export const decodeEmbeddingProgram = (rows: number, width: number): CudaProgram => ({
  key: 'decode_embedding',
  entry: 'decode_embedding',
  grid: [ceilDiv(width, 256 * 4), rows, 1],
  block: [256, 1, 1],
  overlaps: true,
  source: () => overlapFunctions + /* cuda */ `
extern "C" __global__ void decode_embedding(float* out, const bf16* table, const int* tokens, int width) {
  // In this order: what begins after this kernel may count on the step before being over, and reads its positions and cache at once.
  waitForPrevious();
  letNextBegin();
  int at = (blockIdx.x * 256 + threadIdx.x) * 4;
  if (at >= width) return;
  Pack<bf16, 4> x = loadPack<4>(table + (i64)tokens[blockIdx.y] * width + at);
  Pack<float, 4> y;
  #pragma unroll
  for (int i = 0; i < 4; i++) y.v[i] = toFloat(x.v[i]);
  storePack(out + (i64)blockIdx.y * width + at, y);
}`,
});

export interface DecodeLowShape {
  rows: number;
  inner: number;
  /** LoRA rank of each linear layer that reads x, 0 without a branch. */
  ranks: readonly number[];
  /** Normalise x first: it is float32 then, and bf16 without. */
  normalized: boolean;
}

const LOW_THREADS = 256;

/**
 * normed = RMSNorm(x) in bf16 [rows, inner], and low = scale · normed · Aᵀ in float32 [rows, Σ ranks]. A block owns a row and one or more
 * of the low values, and goes over the row itself, which is small. Args: low, normed, x, norm's weight, inner, eps, then for each layer: A [rank, inner], scale.
 */
export function decodeLowProgram({ rows, inner, ranks, normalized }: DecodeLowShape): CudaProgram {
  const total = ranks.reduce((a, b) => a + b, 0);
  const starts = ranks.map((_, i) => ranks.slice(0, i).reduce((a, b) => a + b, 0));
  // Low values that a block makes one after the other, each a wait for A: few, as long as all blocks are at work at once.
  const each = rows <= 4 ? 1 : rows <= 16 || total <= 16 ? 2 : 4;
  const vectors = ceilDiv(inner, LOW_THREADS * 4);
  return {
    key: `decode_low_${inner}_${ranks.join('.')}_${each}_${normalized ? 'norm' : 'plain'}`,
    entry: 'decode_low',
    grid: [Math.max(1, ceilDiv(total, each)), rows, 1],
    block: [LOW_THREADS, 1, 1],
    overlaps: true,
    source: () => overlapFunctions + /* cuda */ `
constexpr int INNER = ${inner}, VECTORS = ${vectors};
extern "C" __global__ void __launch_bounds__(${LOW_THREADS}) decode_low(float* low, bf16* normed, const ${normalized ? 'float' : 'bf16'}* x, const float* weight, float eps${ranks.map((_, i) => `, const float* a${i}, float scale${i}`).join('')}) {
  letNextBegin();
  int row = blockIdx.y;
  // What no kernel writes is asked for while the one before is still at work.
  ${normalized ? `Pack<float, 4> w[VECTORS];
  #pragma unroll
  for (int i = 0; i < VECTORS; i++) { int at = (i * ${LOW_THREADS} + threadIdx.x) * 4; if (at < INNER) w[i] = loadPack<4>(weight + at); }` : ''}
  ${total === 0
    ? ''
    : `constexpr int TOTAL = ${total}, EACH = ${each};
  auto rowOfA = [&](int j) {
    const float* a = a0 + (i64)j * INNER;
    ${ranks.slice(1).map((_, i) => `if (j >= ${starts[i + 1]}) a = a${i + 1} + (i64)(j - ${starts[i + 1]}) * INNER;`).join(' ')}
    return a;
  };
  Pack<float, 4> a[VECTORS];
  auto fetch = [&](int j) {
    #pragma unroll
    for (int i = 0; i < VECTORS; i++) { int at = (i * ${LOW_THREADS} + threadIdx.x) * 4; if (at < INNER && j < TOTAL) a[i] = loadPack<4>(rowOfA(j) + at); }
  };
  fetch(blockIdx.x * EACH);`}
  waitForPrevious();
  const ${normalized ? 'float' : 'bf16'}* in = x + (i64)row * INNER;
  float v[VECTORS][4];
  #pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    int at = (i * ${LOW_THREADS} + threadIdx.x) * 4;
    Pack<${normalized ? 'float' : 'bf16'}, 4> read;
    if (at < INNER) read = loadPack<4>(in + at);
    #pragma unroll
    for (int j = 0; j < 4; j++) v[i][j] = at < INNER ? toFloat(read.v[j]) : 0.f;
  }
  ${normalized
    ? `float squares = 0.f;
  #pragma unroll
  for (int i = 0; i < VECTORS; i++)
    #pragma unroll
    for (int j = 0; j < 4; j++) squares += v[i][j] * v[i][j];
  float r = rsqrtf(blockSum(squares) / INNER + eps);
  #pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    int at = (i * ${LOW_THREADS} + threadIdx.x) * 4;
    if (at >= INNER) continue;
    Pack<bf16, 4> y;
    #pragma unroll
    for (int j = 0; j < 4; j++) { y.v[j] = toBf16(v[i][j] * r * w[i].v[j]); v[i][j] = toFloat(y.v[j]); }
    if (blockIdx.x == 0) storePack(normed + (i64)row * INNER + at, y);
  }`
    : ''}
  ${total === 0
    ? ''
    : `__shared__ float parts[EACH][${LOW_THREADS / 32}];
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  #pragma unroll
  for (int e = 0; e < EACH; e++) {
    int j = blockIdx.x * EACH + e;
    if (j >= TOTAL) break;
    float sum = 0.f;
    #pragma unroll
    for (int i = 0; i < VECTORS; i++) {
      int at = (i * ${LOW_THREADS} + threadIdx.x) * 4;
      if (at >= INNER) continue;
      #pragma unroll
      for (int k = 0; k < 4; k++) sum += v[i][k] * a[i].v[k];
    }
    if (e + 1 < EACH) fetch(j + 1);
    sum = warpSum(sum);
    if (lane == 0) parts[e][warp] = sum;
  }
  __syncthreads();
  int j = blockIdx.x * EACH + threadIdx.x;
  if (threadIdx.x < EACH && j < TOTAL) {
    float sum = 0.f, scale = scale0;
    ${ranks.slice(1).map((_, i) => `if (j >= ${starts[i + 1]}) scale = scale${i + 1};`).join(' ')}
    #pragma unroll
    for (int w = 0; w < ${LOW_THREADS / 32}; w++) sum += parts[threadIdx.x][w];
    low[(i64)row * TOTAL + j] = scale * sum;
  }`}
}`,
  };
}

/** Copies prompts' keys or values to the cache's slots. Args: cache [slots, room], rows [n, columns], columns, room. */
export const decodeFillProgram = (rows: number, columns: number): CudaProgram => ({
  key: 'decode_fill',
  entry: 'decode_fill',
  grid: [ceilDiv(columns, 256 * 4), rows, 1],
  block: [256, 1, 1],
  source: () => /* cuda */ `
extern "C" __global__ void decode_fill(bf16* cache, const bf16* from, i64 columns, i64 room) {
  i64 at = ((i64)blockIdx.x * 256 + threadIdx.x) * 4;
  if (at < columns) storePack(cache + blockIdx.y * room + at, loadPack<4>(from + blockIdx.y * columns + at));
}`,
});

/** Keeps some rows of the state, in the order of `kept`, in place. One block. Args: state [${decodeStateRows}, room], kept, count, room. */
export const decodeKeepProgram = (): CudaProgram => ({
  key: 'decode_keep',
  entry: 'decode_keep',
  grid: [1, 1, 1],
  block: [1024, 1, 1],
  source: () => /* cuda */ `
extern "C" __global__ void decode_keep(int* state, const int* kept, int count, int room) {
  // Rows move to the front, so a piece of 1,024 is read before anything that a later piece reads is written.
  for (int first = 0; first < count; first += 1024) {
    int i = first + threadIdx.x;
    int values[${decodeStateRows}];
    if (i < count) for (int j = 0; j < ${decodeStateRows}; j++) values[j] = state[j * room + kept[i]];
    __syncthreads();
    if (i < count) for (int j = 0; j < ${decodeStateRows}; j++) state[j * room + i] = values[j];
    __syncthreads();
  }
}`,
});
