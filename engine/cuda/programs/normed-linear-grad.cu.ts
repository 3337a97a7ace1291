/*
 * The gradient of a stream that linear layers read after RMSNorm, with those layers' low-rank branches and what the stream's other way
 * gives: no pass of the branches' own. Bound by memory bandwidth: the frozen products' sum, the stream and the other gradient are read
 * once from memory, dx is written once; the stream is read again from the L2 cache. A block owns 16 whole rows, whose gradient stays in
 * shared memory until the rows' sums are known: a thread puts values there for itself alone. Two blocks a multiprocessor, of which one
 * reads while the other waits, are faster than one of 32 rows, which reads the factors half as often: on an H100 109 us instead of 132
 * for three members of 8,192 rows of 3,200, 58 instead of 69 for 4,096.
 */
import { ceilDiv, formatType, type CudaProgram, type Format } from '../program.js';
import { each, spreadProducts, type LoraSpreadShape } from './lora.cu.js';

export interface NormedLinearGradShape extends Pick<LoraSpreadShape, 'rank' | 'members' | 'rows' | 'width' | 'masked'> {
  norm: Format;
}

/** Rows of a block: a tile of the tensor cores. */
const ROWS = 16;
/** Columns that a warp has in a step. */
const COLUMNS = 32;
/** More threads would leave fewer registers than a thread needs. */
const MAX_WARPS = 16;
/** Steps for which the products' sum is on its way to shared memory. */
const AHEAD = 2;

/** Values from one low-rank row to the next: whole steps of the product, apart enough that eight rows lie in different banks. */
const lowPitch = (rank: number): number => (rank <= 8 ? 8 : ceilDiv(rank, 16) * 16 + 8);

/** Warps, and shared memory of a block. */
const tiling = ({ rank, members, width }: NormedLinearGradShape) => {
  const tiles = ceilDiv(width, COLUMNS), steps = ceilDiv(tiles, MAX_WARPS), warps = ceilDiv(tiles, steps);
  return { warps, sharedBytes: ROWS * (8 * warps + 8 + 2 * members * lowPitch(rank) + 2 * steps * warps * COLUMNS) };
};

/** Whether a block of whole rows has the shared memory that it needs. */
export const fitsNormedLinearGrad = (shape: NormedLinearGradShape, sharedLimit: number): boolean => tiling(shape).sharedBytes <= sharedLimit;

/**
 * dx = skip + r·g - x·r³·mean(g·x) with r = 1/rms of x [rows, width] and g = norm · (product + Σ low [rows, rank] · a over the members,
 * what their keep bits have). `dx` may lie where `product` does. Widths are multiples of 8, ranks up to 64, of all members together too.
 * Args: rows, bits' pitch, dx, product, x, norm, skip, width, eps, then for each member low, a, bits.
 */
export const normedLinearGradProgram = (shape: NormedLinearGradShape): CudaProgram => {
  const { rank, members, rows, masked = false, norm } = shape, { warps, sharedBytes } = tiling(shape);
  const short = rank <= 8, steps = short ? 1 : ceilDiv(rank, 16), last = rank - 1;
  const factors = (m: number) => `
    #pragma unroll
    for (int s = 0; s < STEPS; s++) {
      // Columns are dealt out so that this thread's four are neighbours, and so are the eight of its results. Ranks beyond the last meet zeros.
      const float* factor = a${m} + (column + g * 4 < width ? column + g * 4 : column);
      #pragma unroll
      for (int half = 0; half < HALVES; half++) {
        int k = s * 16 + half * 8 + 2 * t;
        Eight first = loadPassing(factor + min(k, ${last}) * width), second = loadPassing(factor + min(k + 1, ${last}) * width);
        #pragma unroll
        for (int j = 0; j < 4; j++) b[${m}][s][half][j] = packBf16(__uint_as_float(first.v[j]), __uint_as_float(second.v[j]));
      }
    }`;
  return {
    key: `normed_linear_grad_${rank}x${members}${masked ? '_masked' : ''}_${norm}_${warps}`,
    entry: 'normed_linear_grad',
    grid: [ceilDiv(rows, ROWS), 1, 1],
    block: [warps * 32, 1, 1],
    sharedBytes,
    source: () => spreadProducts + /* cuda */ `
typedef Pack<u32, 4> Eight; // values
/*
 * Reads that happen where they are written, before the products, and leave the L1 cache to what is read again. Policies say what the L2
 * cache should keep: x until it was read again, nothing else of the tall matrices, which would drive it out.
 */
__device__ __forceinline__ u64 dropFirst() { u64 policy; asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy)); return policy; }
__device__ __forceinline__ u64 dropLast() { u64 policy; asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy)); return policy; }
__device__ __forceinline__ Eight loadPassing(const void* from) {
  Eight x;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(x.v[0]), "=r"(x.v[1]), "=r"(x.v[2]), "=r"(x.v[3]) : "l"(from));
  return x;
}
__device__ __forceinline__ Eight loadPassing(const void* from, u64 policy) {
  Eight x;
  asm volatile("ld.global.L1::no_allocate.L2::cache_hint.v4.u32 {%0,%1,%2,%3}, [%4], %5;" : "=r"(x.v[0]), "=r"(x.v[1]), "=r"(x.v[2]), "=r"(x.v[3]) : "l"(from), "l"(policy));
  return x;
}
__device__ __forceinline__ void copyPassing(void* to, const void* from, u64 policy) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, 16, %2;" :: "r"(sharedAddress(to)), "l"(from), "l"(policy));
}
/** No branch: the reads before stay where they are. */
__device__ __forceinline__ void storeWhere(bool valid, void* to, const Eight& x) {
  asm volatile("{ .reg .pred p; setp.ne.u32 p, %0, 0; @p st.global.v4.u32 [%1], {%2,%3,%4,%5}; }" :: "r"((u32)valid), "l"(to), "r"(x.v[0]), "r"(x.v[1]), "r"(x.v[2]), "r"(x.v[3]));
}
extern "C" __global__ void __launch_bounds__(${warps * 32}) normed_linear_grad(i64 rows, int pitch, bf16* dx, const bf16* product, const bf16* x, const ${formatType[norm]}* norm, const bf16* skip, int width, float eps,
    ${each(members, (m) => `const bf16* low${m}, const float* a${m}, const u8* bits${m}`, ', ')}) {
  constexpr int ROWS = ${ROWS}, WARPS = ${warps}, THREADS = WARPS * 32, MEMBERS = ${members}, STEPS = ${steps}, HALVES = ${short ? 1 : 2}, LOW = ${lowPitch(rank)};
  extern __shared__ __align__(16) float sums[]; // [ROWS][WARPS][2]
  float* found = sums + ROWS * WARPS * 2; // [ROWS][2]: 1/rms, and what x is multiplied by
  bf16* lows = reinterpret_cast<bf16*>(found + ROWS * 2); // [MEMBERS][ROWS][LOW], zeros beyond rows and ranks
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  Eight* kept = reinterpret_cast<Eight*>(lows + MEMBERS * ROWS * LOW) + threadIdx.x; // [steps][2][THREADS]
  i64 base = (i64)blockIdx.x * ROWS;
  int count = (int)min(rows - base, (i64)ROWS);
  dx += base * width; product += base * width; x += base * width; skip += base * width;
  ${masked ? each(members, (m) => `bits${m} += base * pitch;`, ' ') : ''}
  // Reads outside are led to valid places, so that no branch holds them up; nothing comes of them.
  int lines[2] = { min(g, count - 1), min(g + 8, count - 1) };
  u64 once = dropFirst(), again = dropLast();
  auto request = [&](int step) {
    int column = (step * WARPS + warp) * 32, own = column + t * 8;
    if (column < width) {
      #pragma unroll
      for (int h = 0; h < 2; h++) copyPassing(kept + (step * 2 + h) * THREADS, product + lines[h] * width + (own < width ? own : column), once);
    }
    commitCopies();
  };
  #pragma unroll
  for (int step = 0; step < ${AHEAD}; step++) request(step);
  for (int i = threadIdx.x; i < ROWS * LOW; i += THREADS) {
    int row = i / LOW, k = i % LOW;
    i64 at = (base + row) * ${rank} + k;
    bool in = row < count && k < ${rank};
    bf16 values[MEMBERS] = { ${each(members, (m) => `in ? low${m}[at] : bf16{ 0 }`, ', ')} };
    #pragma unroll
    for (int m = 0; m < MEMBERS; m++) lows[m * ROWS * LOW + i] = values[m];
  }
  __syncthreads();

  float squares[2] = {}, products[2] = {};
  int step = 0;
  #pragma unroll 1
  for (int column = warp * 32; column < width; column += WARPS * 32, step++) {
    int own = column + t * 8, at = own < width ? own : column;
    u32 inside = own < width ? 0xffffffffu : 0u;
    request(step + ${AHEAD});
    Eight xs[2];
    #pragma unroll
    for (int h = 0; h < 2; h++) xs[h] = loadPassing(x + lines[h] * width + at, again);
    ${masked ? `u32 keeps[MEMBERS] = {}; // a byte for each of this thread's rows
    #pragma unroll
    for (int h = 0; h < 2; h++) {
      ${each(members, (m) => `keeps[${m}] |= (u32)bits${m}[lines[h] * pitch + (own >> 3)] << (h * 8);`, '\n        ')}
    }` : ''}
    u32 b[MEMBERS][STEPS][HALVES][4];
    ${each(members, factors, '')}
    waitCopies<${AHEAD}>();
    __syncwarp(); // keeps the compiler's reads behind the wait
    Pack<${formatType[norm]}, 8> weight = loadPack<8>(norm + at);
    float y[2][8] = {};
    #pragma unroll
    for (int m = 0; m < MEMBERS; m++) {
      float c[4][4] = {};
      #pragma unroll
      for (int s = 0; s < STEPS; s++) {
        const u32* low = reinterpret_cast<const u32*>(lows + (m * ROWS + g) * LOW + s * 16 + 2 * t);
        ${short
          ? `u32 a0 = low[0], a1 = low[4 * LOW];
        #pragma unroll
        for (int j = 0; j < 4; j++) mmaShort(c[j], a0, a1, b[m][s][0][j]);`
          : `u32 a[4] = { low[0], low[4 * LOW], low[4], low[4 * LOW + 4] };
        #pragma unroll
        for (int j = 0; j < 4; j++) mma(c[j], a, b[m][s][0][j], b[m][s][1][j]);`}
      }
      #pragma unroll
      for (int h = 0; h < 2; h++)
        #pragma unroll
        for (int e = 0; e < 8; e++) ${masked ? 'if (keeps[m] & (1u << (h * 8 + e))) ' : ''}y[h][e] += c[e & 3][2 * h + (e >> 2)];
    }
    #pragma unroll
    for (int h = 0; h < 2; h++) {
      Eight* place = kept + (step * 2 + h) * THREADS;
      Eight d = *place;
      #pragma unroll
      for (int p = 0; p < 4; p++) {
        u32 pair = xs[h].v[p] & inside;
        float low = (y[h][2 * p] + lowHalf(d.v[p])) * toFloat(weight.v[2 * p]), high = (y[h][2 * p + 1] + highHalf(d.v[p])) * toFloat(weight.v[2 * p + 1]);
        squares[h] += lowHalf(pair) * lowHalf(pair) + highHalf(pair) * highHalf(pair);
        products[h] += lowHalf(pair) * low + highHalf(pair) * high;
        d.v[p] = packBf16(low, high);
      }
      *place = d;
    }
  }

  // The steps again, from the last: what was read last is the likeliest to be in the L2 cache still. Reads are a step ahead.
  Eight nextX[2], nextSkip[2];
  auto fetch = [&](int step) {
    int column = (step * WARPS + warp) * 32, at = column + t * 8 < width ? column + t * 8 : column;
    #pragma unroll
    for (int h = 0; h < 2; h++) {
      nextSkip[h] = loadPassing(skip + lines[h] * width + at, once);
      nextX[h] = loadPassing(x + lines[h] * width + at, once);
    }
  };
  if (step > 0) fetch(step - 1);
  #pragma unroll
  for (int h = 0; h < 2; h++) {
    float square = squares[h], product = products[h];
    #pragma unroll
    for (int other = 1; other < 4; other *= 2) { square += __shfl_xor_sync(0xffffffffu, square, other); product += __shfl_xor_sync(0xffffffffu, product, other); }
    float* sum = sums + ((h * 8 + g) * WARPS + warp) * 2;
    if (t == 0) { sum[0] = square; sum[1] = product; }
  }
  __syncthreads();
  for (int row = threadIdx.x; row < ROWS; row += THREADS) {
    float square = 0.f, product = 0.f;
    #pragma unroll
    for (int i = 0; i < WARPS; i++) { square += sums[(row * WARPS + i) * 2]; product += sums[(row * WARPS + i) * 2 + 1]; }
    float r = rsqrtf(square / width + eps);
    found[row * 2] = r;
    found[row * 2 + 1] = product / width * r * r * r;
  }
  __syncthreads();

  float r[2], slope[2];
  #pragma unroll
  for (int h = 0; h < 2; h++) { r[h] = found[(h * 8 + g) * 2]; slope[h] = found[(h * 8 + g) * 2 + 1]; }
  #pragma unroll 1
  while (step-- > 0) {
    int own = (step * WARPS + warp) * 32 + t * 8, at = own < width ? own : own - t * 8;
    Eight xs[2], before[2];
    #pragma unroll
    for (int h = 0; h < 2; h++) { xs[h] = nextX[h]; before[h] = nextSkip[h]; }
    if (step > 0) fetch(step - 1);
    #pragma unroll
    for (int h = 0; h < 2; h++) {
      Eight d = kept[(step * 2 + h) * THREADS], out;
      #pragma unroll
      for (int p = 0; p < 4; p++)
        out.v[p] = packBf16(
          lowHalf(d.v[p]) * r[h] - lowHalf(xs[h].v[p]) * slope[h] + lowHalf(before[h].v[p]),
          highHalf(d.v[p]) * r[h] - highHalf(xs[h].v[p]) * slope[h] + highHalf(before[h].v[p]));
      storeWhere(own < width && h * 8 + g < count, dx + lines[h] * width + at, out);
    }
  }
}`,
  };
};
