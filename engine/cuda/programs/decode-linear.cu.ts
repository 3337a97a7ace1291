/*
 * Linear layers of a decode step: few rows of x (a token of each answer) by a whole frozen matrix, which is read once, packed, and
 * dequantised in registers. Bound by the matrix's bytes up to about 32 rows, beyond by mma.sync and by reading x from the L2 cache.
 * The matrix is the tensor core's left operand (16 of its rows), x the right one (8 tokens). A thread reads 16 neighbouring values of
 * a row and takes them for the tensor core's scattered columns: the sum does not mind the order as long as both operands have the
 * same. Up to 8 tokens the warps of a block share the inner dimension and read x where it is; beyond, each has rows of its own and
 * all share x in shared memory, and blocks share the inner dimension where a matrix has too few rows to fill the device. Parts are
 * added in a fixed order. What follows a product (scale, LoRA branch, bias, residual, SwiGLU) happens on the way out. The first bytes of
 * the matrix are asked for before the launch before has ended.
 * v1 (H100, 64 rows by [17280, 3200] int8: 93 us) had the warps share the inner dimension there too, and added branches one value at a time.
 */
import { overlapFunctions } from '../overlapping-launch.js';
import { ceilDiv, type CudaProgram } from '../program.js';
import { nf4Tables } from './dequantize.cu.js';

/** How the matrices are stored; all of a launch are stored alike. */
export type DecodeKind = 'int8' | 'nf4' | 'bf16';
/**
 * `store`: y in bf16, the matrices side by side. `add`: the residual stream (float32) plus y, in place. `swiglu`: silu(first) · second
 * in bf16. `logits`: y in float32.
 */
export type DecodeOutput = 'store' | 'add' | 'swiglu' | 'logits';

export interface DecodeLinearShape {
  kind: DecodeKind;
  output: DecodeOutput;
  /** Rows of each matrix; for `swiglu` two equal ones. */
  outs: readonly number[];
  inner: number;
  /** LoRA rank of each matrix, 0 without a branch. */
  ranks: readonly number[];
  /** Which of them have a bias. */
  biases: readonly boolean[];
  /** Rows of x. */
  rows: number;
  multiprocessors: number;
}

export interface DecodeLinearPlan {
  program: CudaProgram;
  /** Float32 values of scratch, and counters (zero at first, zero again after each launch). */
  partValues: number;
  counters: number;
}

/** Values of the inner dimension that a warp takes at a time, 16 a thread. */
const CHUNK = 64;
/** Tokens in one launch's z slice: 1, 2, 4 or 8 tiles of 8. */
const TOKENS = 64;

export interface DecodeTiling {
  /** Tiles of 8 tokens and of 16 matrix rows that a warp works on. */
  tokenTiles: number;
  rowTiles: number;
  warps: number;
  /** Whether a block's warps share the inner dimension, or have rows of their own. */
  sharing: boolean;
  /** Blocks that share the inner dimension. */
  splits: number;
  /** Chunks whose bytes are asked for before the first is used. */
  ahead: number;
  /** Blocks that a multiprocessor shall have room for. */
  resident: number;
}

/** Of one multiprocessor of an H100, in bytes and tensor-core products a microsecond: memory, mma.sync; of all, the L2 cache. */
const RATES = { memory: 22_700, products: 650, cache: 4_000_000 };
const MOST_SPLITS = 8;

/** The tiling that should be fastest: by what a multiprocessor has to read and multiply, and how evenly the blocks fill the device. */
export function decodeTiling({ kind, output, outs, inner, rows, multiprocessors }: DecodeLinearShape): DecodeTiling {
  const chunks = ceilDiv(inner, CHUNK);
  const paired = output === 'swiglu';
  if (rows <= 8) {
    const rowTiles = paired ? 2 : 1;
    const blocks = blocksOf(paired, outs, 16 * rowTiles).reduce((a, b) => a + b, 0);
    // All blocks at once, up to five on a multiprocessor: many short reads are on their way then, and more of each warp's only get in the way.
    const resident = Math.min(ceilDiv(blocks, multiprocessors), paired && kind === 'bf16' ? 3 : 5);
    const warps = Math.min(chunks, 8);
    const ahead = resident > 3 ? 1 : Math.max(1, Math.min(3, ceilDiv(chunks, warps), Math.floor(40 / (2 * rowTiles * decodeKinds[kind].words))));
    return { tokenTiles: 1, rowTiles, warps, sharing: true, splits: 1, ahead, resident };
  }
  const tokenTiles = rows <= 16 ? 2 : rows <= 32 ? 4 : 8;
  const rowTiles = tokenTiles === 2 && !paired ? 1 : 2, warps = 4;
  const blocks = blocksOf(paired, outs, 16 * rowTiles * warps).reduce((a, b) => a + b, 0);
  const turn = Math.max((16 * rowTiles * warps * CHUNK * decodeKinds[kind].words) / 4 / RATES.memory, (4 * rowTiles * tokenTiles * warps) / RATES.products);
  let splits = 1, bestTime = Infinity;
  for (let count = 1; count <= Math.min(MOST_SPLITS, chunks); count++) {
    const perProcessor = ceilDiv(blocks * count, multiprocessors);
    const parts = count === 1 ? 0 : (8 * blocks * count * 16 * rowTiles * warps * 8 * tokenTiles) / RATES.cache + 1;
    // A block by itself takes a chunk in no less than half a microsecond.
    const time = ceilDiv(chunks, count) * Math.max(perProcessor * turn, 0.5) + parts;
    if (time < bestTime) [splits, bestTime] = [count, time];
  }
  return { tokenTiles, rowTiles, warps, sharing: false, splits, ahead: Math.max(1, Math.min(4, Math.floor(32 / (2 * rowTiles * decodeKinds[kind].words)))), resident: 3 };
}

/** Blocks of each matrix; of a pair, which share their blocks, of the first. */
const blocksOf = (paired: boolean, outs: readonly number[], blockRows: number): number[] =>
  paired ? [ceilDiv(outs[0], blockRows / 2)] : outs.map((out) => ceilDiv(out, blockRows));

/** A row's tail in shared memory: keeps the warp's scattered writes off each other's banks. */
const PAD = 4;
/** Pieces of x in shared memory at a time, and values from one token's to the next: 16 bytes more than a chunk, again for the banks. */
const STAGES = 4;
const X_STRIDE = CHUNK + 8;

/** Reading a thread's 16 values of one matrix row, and what four of them become: a word of two bf16 each. */
export const decodeKinds: Record<DecodeKind, { words: number; bytes: (k: string) => string; setup: string; unpack: string }> = {
  int8: {
    words: 4,
    bytes: (k) => k,
    setup: '',
    // Byte to bf16 without a conversion: 128 + its low seven bits is exact in bf16, and from that goes 128, or 256 under a sign bit.
    unpack: `__device__ __forceinline__ u32 toPair(u32 bytes) {
  u32 magnitude = (bytes & 0x007f007fu) | 0x43004300u, offset = (bytes & 0x00800080u) | 0xc300c300u, y;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(magnitude), "r"(0x3f803f80u), "r"(offset));
  return y;
}
__device__ __forceinline__ void unpack(u32& low, u32& high, const u32 (&w)[4], int step, float, const float*) {
  low = toPair(__byte_perm(w[step], 0, 0x4140));
  high = toPair(__byte_perm(w[step], 0, 0x4342));
}`,
  },
  nf4: {
    words: 2,
    bytes: (k) => `(${k}) / 2`,
    // A copy of the levels for each lane, so that no two lanes meet in a bank.
    setup: `__shared__ float levels[16][32];
  __shared__ float nested8[256];
  for (int i = threadIdx.x; i < 512; i += THREADS) levels[i >> 5][i & 31] = __uint_as_float(nf4LevelBits[i >> 5]);
  for (int i = threadIdx.x; i < 256; i += THREADS) nested8[i] = __uint_as_float(dynamicLevelBits[i]);
  __syncthreads();
  const float* level = &levels[0][lane];`,
    unpack: `__device__ __forceinline__ void unpack(u32& low, u32& high, const u32 (&w)[2], int step, float scale, const float* level) {
  u32 codes = w[step >> 1] >> (16 * (step & 1));
  low = packBf16(__fmul_rn(level[(codes >> 4 & 15) * 32], scale), __fmul_rn(level[(codes & 15) * 32], scale));
  high = packBf16(__fmul_rn(level[(codes >> 12 & 15) * 32], scale), __fmul_rn(level[(codes >> 8 & 15) * 32], scale));
}`,
  },
  bf16: {
    words: 8,
    bytes: (k) => `(${k}) * 2`,
    setup: '',
    unpack: `__device__ __forceinline__ void unpack(u32& low, u32& high, const u32 (&w)[8], int step, float, const float*) { low = w[2 * step]; high = w[2 * step + 1]; }`,
  },
};

/** Arguments of one matrix: codes, absmax, nested codes, offset, B, bias. */
export const matrixParameters = (i: number) => `const u8* codes${i}, const float* absmax${i}, const u8* nested${i}, float offset${i}, const float* b${i}, const float* bias${i}`;

/**
 * y [rows, Σ outs] = x [rows, inner] · Wᵀ + low · Bᵀ + bias. Args: out (`add`: also what is added to), x, low (float32 [rows, Σ ranks]),
 * parts, counters, rows, then for each matrix: codes (int8, NF4 or bf16 values), absmax, nested codes or null, offset, B [out, rank], bias.
 * @param tiling @default the one that should be fastest
 */
export function decodeLinearPlan(shape: DecodeLinearShape, { tokenTiles, rowTiles, warps, sharing, splits, ahead, resident }: DecodeTiling = decodeTiling(shape)): DecodeLinearPlan {
  const { kind, output, outs, inner, ranks, biases, rows } = shape;
  const paired = output === 'swiglu';
  const { words, bytes, setup, unpack } = decodeKinds[kind];
  const warpRows = 16 * rowTiles, blockRows = sharing ? warpRows : warpRows * warps, tokens = 8 * tokenTiles;
  const tiles = blocksOf(paired, outs, blockRows);
  const blocks = tiles.reduce((a, b) => a + b, 0);
  const slices = ceilDiv(rows, TOKENS);
  const lowWidth = ranks.reduce((a, b) => a + b, 0), width = outs.reduce((a, b) => a + b, 0);
  const threads = warps * 32, parts = sharing ? warps : 1;
  const first = (values: readonly number[], i: number) => values.slice(0, i).reduce((a, b) => a + b, 0);
  /** Picks matrix i of the launch; unrolled comparisons, as parameters cannot be indexed. */
  const pick = (type: string, name: string, of: (i: number) => string) =>
    `${type} ${name} = ${of(0)}; ${outs.slice(1).map((_, j) => `if (which == ${j + 1}) ${name} = ${of(j + 1)};`).join(' ')}`;
  /** The matrix that row tile r of a warp belongs to. */
  const of = (name: string) => (paired ? `(r & 1 ? ${name}1 : ${name}0)` : name);
  const rowOf = paired ? '(r >> 1) * 16' : 'r * 16', rowLimit = paired ? String(outs[0]) : 'out_';
  const branched = lowWidth > 0;
  const stages = sharing ? 0 : STAGES;
  /** Whether what is needed after the product is asked for before it: where few blocks share a multiprocessor, nothing else hides that wait. */
  const early = sharing && resident <= 3;
  /** Whether four neighbouring rows are there or not together, and may be written together. */
  const vector = outs.every((out) => out % 4 === 0);
  const streams = output === 'add' && vector && early;
  const rowScales = `float scale[RT][2];
  #pragma unroll
  for (int r = 0; r < RT; r++)
    #pragma unroll
    for (int h = 0; h < 2; h++) { int row = row0 + ${rowOf} + h * 8; scale[r][h] = row < ${rowLimit} ? ${of('absmax')}[row] : 0.f; }`;
  const program: CudaProgram = {
    key: `decode_linear_${kind}_${output}_${outs.join('.')}_${inner}_r${ranks.join('.')}_b${biases.map(Number).join('')}_${tokenTiles}x${rowTiles}_${sharing ? 's' : 'o'}${warps}_${splits}_${ahead}_${resident}`,
    entry: 'decode_linear',
    grid: [blocks, splits, slices],
    block: [threads, 1, 1],
    sharedBytes: Math.max(parts * tokens * (blockRows + PAD) * 4, stages * tokens * X_STRIDE * 2),
    overlaps: true,
    source: () => overlapFunctions + (kind === 'nf4' ? nf4Tables() : '') + /* cuda */ `
constexpr int ROWS = ${blockRows}, RT = ${rowTiles}, NT = ${tokenTiles}, TOKENS = ${tokens}, THREADS = ${threads}, AHEAD = ${ahead}, INNER = ${inner}, STRIDE = ROWS + ${PAD}, CHUNKS = ${ceilDiv(inner, CHUNK)};
${unpack}
/** Past the first-level cache: every byte of the matrix is used once. */
template <int N> __device__ __forceinline__ void readOnce(u32 (&to)[N], const u8* from, bool valid) {
  #pragma unroll
  for (int i = 0; i < N; i++) to[i] = 0;
  if (!valid) return;
  if (N == 2) asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(to[0]), "=r"(to[1]) : "l"(from));
  else
    #pragma unroll
    for (int i = 0; i < N; i += 4)
      asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(to[i]), "=r"(to[i + 1]), "=r"(to[i + 2]), "=r"(to[i + 3]) : "l"(from + i * 4));
}
extern "C" __global__ void __launch_bounds__(THREADS, ${resident}) decode_linear(${output === 'store' || output === 'swiglu' ? 'bf16' : 'float'}* out, const bf16* x, const float* low, float* parts, u32* counters, int rows, ${outs.map((_, i) => matrixParameters(i)).join(', ')}) {
  extern __shared__ __align__(16) u8 shared[];
  float* sums = reinterpret_cast<float*>(shared);
  letNextBegin();
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  int token0 = blockIdx.z * ${TOKENS};
  ${setup}
  // Which matrix, and which of its rows.
  int tile = blockIdx.x;${paired ? '' : `${outs.length > 1 ? 'int which = 0;' : ''} ${tiles.slice(1).map((_, j) => `if (blockIdx.x >= ${first(tiles, j + 1)}) { which = ${j + 1}; tile = blockIdx.x - ${first(tiles, j + 1)}; }`).join(' ')}
  ${pick('const u8*', 'codes', (i) => `codes${i}`)} ${pick('int', 'out_', (i) => String(outs[i]))}
  ${kind === 'bf16' ? '' : pick('const float*', 'absmax', (i) => `absmax${i}`)}
  ${kind === 'nf4' ? `${pick('const u8*', 'nested', (i) => `nested${i}`)} ${pick('float', 'offset', (i) => `offset${i}`)}` : ''}
  ${branched ? pick('const float*', 'b', (i) => `b${i}`) : ''} ${branched && outs.length > 1 ? `${pick('int', 'rank', (i) => String(ranks[i]))} ${pick('int', 'lowFirst', (i) => String(first(ranks, i)))}` : ''}`}
  // Row tile r, half h of this thread's begins ${rowOf} + h * 8 after its first row: of a pair, even tiles are the first matrix's.
  int row0 = tile * ${paired ? 'ROWS / 2' : 'ROWS'} + ${sharing ? '' : `warp * ${paired ? warpRows / 2 : warpRows} + `}g;
  ${(paired ? ['0', '1'] : ['']).map((i) => `const u8* first${i} = codes${i} + ${bytes('(i64)row0 * INNER + t * 16')};`).join(' ')}
  ${kind === 'int8' && early ? rowScales : ''}
  ${branched ? branchOperands() : ''}
  ${streams ? streamOperand() : ''}
  float acc[RT][NT][4];
  #pragma unroll
  for (int r = 0; r < RT; r++)
    #pragma unroll
    for (int n = 0; n < NT; n++) acc[r][n][0] = acc[r][n][1] = acc[r][n][2] = acc[r][n][3] = 0.f;
  u32 w[AHEAD][RT][2][${words}];
  auto fetch = [&](u32 (&to)[RT][2][${words}], int chunk, bool valid) {
    #pragma unroll
    for (int r = 0; r < RT; r++)
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        int k = chunk * ${CHUNK}, row = ${rowOf} + h * 8;
        readOnce(to[r][h], ${of('first')} + ${bytes('(i64)row * INNER + k')}, valid && k + t * 16 < INNER && row0 + row < ${rowLimit});
      }
  };
  /** read(n, half): eight values of token n * 8 + g, in four words. */
  auto multiply = [&](const u32 (&from)[RT][2][${words}], int chunk, auto read) {
    ${kind === 'nf4'
      ? `float scale[RT][2];
    #pragma unroll
    for (int r = 0; r < RT; r++)
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        int row = row0 + ${rowOf} + h * 8, k = chunk * ${CHUNK} + t * 16;
        i64 block = ((i64)row * INNER + k) >> 6;
        const float* most = ${of('absmax')}; const u8* codes8 = ${of('nested')};
        scale[r][h] = k >= INNER || row >= ${rowLimit} ? 0.f : codes8 ? __fadd_rn(__fmul_rn(nested8[codes8[block]], most[block >> 8]), ${of('offset')}) : most[block];
      }`
      : ''}
    #pragma unroll
    for (int half = 0; half < 2; half++) {
      Pack<u32, 4> values[NT];
      #pragma unroll
      for (int n = 0; n < NT; n++) values[n] = read(n, half);
      #pragma unroll
      for (int s = 0; s < 2; s++)
        #pragma unroll
        for (int r = 0; r < RT; r++) {
          u32 a[4];
          unpack(a[0], a[2], from[r][0], half * 2 + s, ${kind === 'nf4' ? 'scale[r][0], level' : '0.f, nullptr'});
          unpack(a[1], a[3], from[r][1], half * 2 + s, ${kind === 'nf4' ? 'scale[r][1], level' : '0.f, nullptr'});
          #pragma unroll
          for (int n = 0; n < NT; n++) mma(acc[r][n], a, values[n].v[2 * s], values[n].v[2 * s + 1]);
        }
    }
  };
  ${sharing ? sharedInner() : sharedX()}
  ${kind === 'int8'
    ? `${early ? '' : rowScales}
  #pragma unroll
  for (int r = 0; r < RT; r++)
    #pragma unroll
    for (int h = 0; h < 2; h++) {
      float factor = scale[r][h] * __builtin_bit_cast(float, 0x3c010204u); // 1 / 127
      #pragma unroll
      for (int n = 0; n < NT; n++) { acc[r][n][2 * h] *= factor; acc[r][n][2 * h + 1] *= factor; }
    }`
    : ''}
  ${branched ? branch() : ''}
  #pragma unroll
  for (int r = 0; r < RT; r++)
    #pragma unroll
    for (int n = 0; n < NT; n++)
      #pragma unroll
      for (int i = 0; i < 4; i++) sums[(${sharing ? 'warp * TOKENS + ' : ''}n * 8 + 2 * t + (i & 1)) * STRIDE + ${sharing ? '' : `warp * ${warpRows} + `}r * 16 + (i >> 1) * 8 + g] = acc[r][n][i];
  __syncthreads();
  int tokens = min(TOKENS, rows - token0);
  ${parts > 1
    ? `for (int i = threadIdx.x; i < ROWS * tokens; i += THREADS) {
    int at = i / ROWS * STRIDE + i % ROWS;
    float sum = 0.f;
    #pragma unroll
    for (int v = 0; v < ${parts}; v++) sum += sums[v * TOKENS * STRIDE + at];
    sums[at] = sum; // read by this thread alone until the next barrier
  }
  __syncthreads();`
    : ''}
  ${splits > 1
    ? `// The last of the blocks that share these rows adds their parts up, in the blocks' order.
  __shared__ bool isLast;
  constexpr int SPLITS = ${splits};
  i64 place = (i64)blockIdx.z * gridDim.x + blockIdx.x;
  float* own = parts + place * SPLITS * ROWS * TOKENS;
  #pragma unroll 4
  for (int i = threadIdx.x * 4; i < ROWS * tokens; i += THREADS * 4) storePack(own + blockIdx.y * ROWS * TOKENS + i, loadPack<4>(sums + i / ROWS * STRIDE + i % ROWS));
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) isLast = atomicAdd(counters + place, 1u) == SPLITS - 1;
  __syncthreads();
  if (!isLast) return;
  __threadfence();
  if (threadIdx.x == 0) counters[place] = 0;
  auto valuesAt = [&](int n, int r) {
    Pack<float, 4> sum = { { 0.f, 0.f, 0.f, 0.f } };
    #pragma unroll
    for (int s = 0; s < SPLITS; s++) {
      float4 part = __ldcg(reinterpret_cast<const float4*>(own + s * ROWS * TOKENS + n * ROWS + r));
      sum.v[0] += part.x; sum.v[1] += part.y; sum.v[2] += part.z; sum.v[3] += part.w;
    }
    return sum;
  };`
    : 'auto valuesAt = [&](int n, int r) { return loadPack<4>(sums + n * STRIDE + r); };'}
  ${epilogue()}
}`,
  };
  return {
    program,
    partValues: splits > 1 ? slices * blocks * splits * blockRows * tokens : 0,
    counters: splits > 1 ? slices * blocks : 0,
  };

  /** Each warp takes every so many chunks, and reads x from where it is. */
  function sharedInner(): string {
    return `constexpr int TURN = ${warps * splits};
  int c = blockIdx.y * ${warps} + warp;
  #pragma unroll
  for (int u = 0; u < AHEAD; u++) fetch(w[u], c + u * TURN, c + u * TURN < CHUNKS);
  waitForPrevious();
  ${branched && early ? 'askForLow();' : ''}
  ${streams ? 'askForStream();' : ''}
  const bf16* xs = x + (i64)(token0 + g) * INNER + t * 16;
  while (c < CHUNKS) {
    #pragma unroll
    for (int u = 0; u < AHEAD; u++) {
      int chunk = c + u * TURN, k = chunk * ${CHUNK};
      bool in = chunk < CHUNKS && k + t * 16 < INNER;
      multiply(w[u], chunk, [&](int n, int half) {
        return in && token0 + n * 8 + g < rows ? *reinterpret_cast<const Pack<u32, 4>*>(xs + (i64)n * 8 * INNER + k + half * 8) : Pack<u32, 4>{ { 0, 0, 0, 0 } };
      });
    }
    c += TURN * AHEAD;
    if (c < CHUNKS)
      #pragma unroll
      for (int u = 0; u < AHEAD; u++) fetch(w[u], c + u * TURN, c + u * TURN < CHUNKS);
  }`;
  }

  /** All warps take the same chunks, whose part of x comes through shared memory. */
  function sharedX(): string {
    const each = ceilDiv(ceilDiv(inner, CHUNK), splits);
    return `constexpr int EACH = ${each}, X_STRIDE = ${X_STRIDE}, STAGES = ${STAGES};
  bf16* staged = reinterpret_cast<bf16*>(shared);
  int from = blockIdx.y * EACH, count = min(EACH, CHUNKS - from);
  #pragma unroll
  for (int u = 0; u < AHEAD; u++) fetch(w[u], from + u, u < count);
  waitForPrevious();
  auto stage = [&](int i) {
    if (i < count) {
      int k = (from + i) * ${CHUNK};
      #pragma unroll
      for (int p = threadIdx.x; p < TOKENS * 8; p += THREADS) {
        int token = p >> 3, piece = (p & 7) * 8;
        bool valid = token0 + token < rows && k + piece < INNER;
        copyAsync<16>(staged + ((i % STAGES) * TOKENS + token) * X_STRIDE + piece, valid ? x + (i64)(token0 + token) * INNER + k + piece : x, valid);
      }
    }
    commitCopies();
  };
  #pragma unroll
  for (int i = 0; i < STAGES - 1; i++) stage(i);
  for (int i0 = 0; i0 < count; i0 += AHEAD)
    #pragma unroll
    for (int u = 0; u < AHEAD; u++) {
      int i = i0 + u;
      if (i < count) {
        waitCopies<STAGES - 2>();
        __syncthreads();
        stage(i + STAGES - 1);
        const bf16* xs = staged + ((i % STAGES) * TOKENS + g) * X_STRIDE + t * 16;
        multiply(w[u], from + i, [&](int n, int half) { return *reinterpret_cast<const Pack<u32, 4>*>(xs + n * 8 * X_STRIDE + half * 8); });
        fetch(w[u], from + i + AHEAD, i + AHEAD < count);
      }
    }
  waitCopies<0>();
  __syncthreads(); // what is staged gives way to the sums`;
  }

  /**
   * The LoRA branch is another step of the product: B in the matrix's place, low values in that of x. One block and warp of those that
   * share rows adds it. Its first sixteen ranks' operands are asked for early: B before the launch before has ended, low values right after.
   */
  function branchOperands(): string {
    const rank = paired ? `(r & 1 ? ${ranks[1]} : ${ranks[0]})` : outs.length > 1 ? 'rank' : String(ranks[0]);
    const lowFirst = outs.length > 1 && !paired ? 'lowFirst' : '0';
    const mine = [...(splits > 1 ? ['blockIdx.y == 0'] : []), ...(sharing ? ['warp == 0'] : [])].join(' && ') || 'true';
    return `bool branches = ${mine};
  auto upPair = [&](int r, int h, int j) {
    int row = row0 + ${rowOf} + h * 8, width = ${rank};
    const float* from = ${of('b')} + (i64)row * width;
    bool in = branches && row < ${rowLimit};
    return packBf16(in && j < width ? from[j] : 0.f, in && j + 1 < width ? from[j + 1] : 0.f);
  };
  auto up = [&](u32 (&a)[4], int r, int j) { a[0] = upPair(r, 0, j); a[1] = upPair(r, 1, j); a[2] = upPair(r, 0, j + 8); a[3] = upPair(r, 1, j + 8); };
  /** Of the first matrix of a pair, or of the second; any other launch has one. */
  auto downPair = [&](int second, int n, int j) {
    int token = token0 + n * 8 + g, width = ${paired ? `second ? ${ranks[1]} : ${ranks[0]}` : rank};
    const float* from = low + (i64)token * ${lowWidth} + ${paired ? `(second ? ${ranks[0]} : 0)` : lowFirst};
    bool in = branches && token < rows;
    return packBf16(in && j < width ? from[j] : 0.f, in && j + 1 < width ? from[j + 1] : 0.f);
  };
  u32 firstUp[RT][4], firstDown[${paired ? 2 : 1}][NT][2];
  auto askForUp = [&] {
    #pragma unroll
    for (int r = 0; r < RT; r++) up(firstUp[r], r, 2 * t);
  };
  ${early ? 'askForUp();' : ''}
  auto askForLow = [&] {
    #pragma unroll
    for (int m = 0; m < ${paired ? 2 : 1}; m++)
      #pragma unroll
      for (int n = 0; n < NT; n++) { firstDown[m][n][0] = downPair(m, n, 2 * t); firstDown[m][n][1] = downPair(m, n, 2 * t + 8); }
  };`;
  }

  function branch(): string {
    const most = Math.max(...ranks), m = paired ? 'r & 1' : '0';
    return `if (branches) {
    ${early ? '' : 'askForUp(); askForLow();'}
    #pragma unroll
    for (int r = 0; r < RT; r++)
      #pragma unroll
      for (int n = 0; n < NT; n++) mma(acc[r][n], firstUp[r], firstDown[${m}][n][0], firstDown[${m}][n][1]);
    ${most > 16
      ? `for (int j = 16 + 2 * t; j < ${ceilDiv(most, 16) * 16}; j += 16)
      #pragma unroll
      for (int r = 0; r < RT; r++) {
        u32 a[4];
        up(a, r, j);
        #pragma unroll
        for (int n = 0; n < NT; n++) mma(acc[r][n], a, downPair(${m}, n, j), downPair(${m}, n, j + 8));
      }`
      : ''}
  }`;
  }

  /** Four neighbouring rows of a token at a time; several such are asked for before the first is written. */
  function epilogue(): string {
    const bias = (i: string, limit: string) => `${vector ? '' : `row + j < ${limit} ? `}bias${i}[row + j]${vector ? '' : ' : 0.f'}`;
    const anyBias = biases.some(Boolean);
    const at = paired ? `(i64)(token0 + n) * ${outs[0]} + row` : `(i64)(token0 + n) * ${width} + ${outs.length > 1 ? 'columns' : '0'} + row`;
    const type = output === 'store' || output === 'swiglu' ? 'bf16' : 'float';
    return `constexpr int ACROSS = ${paired ? 'ROWS / 2' : 'ROWS'} / 4, ITEMS = ACROSS * TOKENS, ASKED = ${Math.min(4, ceilDiv((paired ? blockRows / 2 : blockRows) / 4 * tokens, threads))};
  ${outs.length > 1 && !paired ? pick('int', 'columns', (i) => String(first(outs, i))) : ''}
  ${anyBias && !paired ? pick('const float*', 'bias', (i) => `bias${i}`) : ''}
  for (int i0 = threadIdx.x; i0 < ITEMS; i0 += THREADS * ASKED) {
    Pack<float, 4> y[ASKED]${paired ? ', other[ASKED]' : ''}${output === 'add' ? ', before[ASKED]' : ''};
    #pragma unroll
    for (int u = 0; u < ASKED; u++) {
      int i = i0 + u * THREADS, n = i / ACROSS, r = i % ACROSS * 4, row = tile * ${paired ? '(ROWS / 2)' : 'ROWS'} + r;
      if (i >= ITEMS || n >= tokens || row >= ${rowLimit}) continue;
      ${paired ? 'y[u] = valuesAt(n, (r >> 4) * 32 + (r & 15)); other[u] = valuesAt(n, (r >> 4) * 32 + (r & 15) + 16);' : 'y[u] = valuesAt(n, r);'}
      ${output !== 'add' ? '' : streams ? 'before[u] = streamed;' : vector ? `before[u] = loadPack<4>(out + ${at});` : `for (int j = 0; j < 4; j++) before[u].v[j] = row + j < ${rowLimit} ? out[${at} + j] : 0.f;`}
    }
    #pragma unroll
    for (int u = 0; u < ASKED; u++) {
      int i = i0 + u * THREADS, n = i / ACROSS, r = i % ACROSS * 4, row = tile * ${paired ? '(ROWS / 2)' : 'ROWS'} + r;
      if (i >= ITEMS || n >= tokens || row >= ${rowLimit}) continue;
      Pack<${type}, 4> result;
      #pragma unroll
      for (int j = 0; j < 4; j++) {
        ${paired
          ? `float gate = y[u].v[j]${biases[0] ? ` + (${bias('0', String(outs[0]))})` : ''}, up = other[u].v[j]${biases[1] ? ` + (${bias('1', String(outs[0]))})` : ''};
        result.v[j] = toBf16(gate / (1.f + __expf(-gate)) * up);`
          : `float value = y[u].v[j]${anyBias ? ` + (bias ? ${bias('', 'out_')} : 0.f)` : ''}${output === 'add' ? ' + before[u].v[j]' : ''};
        result.v[j] = ${type === 'bf16' ? 'toBf16(value)' : 'value'};`}
      }
      ${vector ? `storePack(out + ${at}, result);` : `for (int j = 0; j < 4; j++) if (row + j < ${rowLimit}) out[${at} + j] = result.v[j];`}
    }
  }`;
  }

  /** What the product is added to, asked for before the product is made: here a thread has at most one item of the epilogue. */
  function streamOperand(): string {
    return `Pack<float, 4> streamed;
  auto askForStream = [&] {
    int n = threadIdx.x / (ROWS / 4), row = tile * ROWS + threadIdx.x % (ROWS / 4) * 4;
    if (n < TOKENS && token0 + n < rows && row < out_) streamed = loadPack<4>(out + (i64)(token0 + n) * ${width} + row);
  };`;
  }
}
