/*
 * Linear layers of a decode step: few rows of x (a token of each answer) by a whole frozen matrix, which is read once, packed, and
 * dequantised in registers. Bound by the matrix's bytes up to about 32 rows, beyond by mma.sync and by reading x from the L2 cache.
 * The matrix is the tensor core's left operand (16 of its rows), x the right one (8 tokens). A thread reads 16 neighbouring values of
 * a row and takes them for the tensor core's scattered columns: the sum does not mind the order as long as both operands have the
 * same. The warps of a block share the inner dimension, and so do blocks where a matrix has too few rows to fill the device; their
 * parts are added in a fixed order. What follows a product (scale, LoRA branch, bias, residual, SwiGLU) happens on the way out.
 */
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
  /** Blocks that share the inner dimension. */
  splits: number;
  /** Chunks whose bytes are asked for before the first is used. */
  ahead: number;
}

/** Of one multiprocessor of an H100, in bytes and tensor-core products a microsecond: memory, L2 cache, mma.sync. */
const RATES = { memory: 22_700, cache: 36_000, products: 650 };
const MOST_SPLITS = 8;

/** The tiling that should be fastest: by what a multiprocessor has to read and multiply, and how evenly the blocks fill the device. */
export function decodeTiling({ kind, output, outs, inner, rows, multiprocessors }: DecodeLinearShape): DecodeTiling {
  const tokenTiles = rows <= 8 ? 1 : rows <= 16 ? 2 : rows <= 32 ? 4 : 8;
  const chunks = ceilDiv(inner, CHUNK);
  const paired = output === 'swiglu';
  let best: DecodeTiling | undefined, bestTime = Infinity;
  for (const rowTiles of tokenTiles === 1 ? [paired ? 2 : 1] : tokenTiles === 8 ? [kind === 'int8' ? 4 : 2] : [2, 4]) {
    const blocks = blocksOf(paired, outs, 16 * rowTiles).reduce((a, b) => a + b, 0);
    const turn = Math.max((16 * rowTiles * CHUNK * kinds[kind].words) / 4 / RATES.memory, (4 * rowTiles * tokenTiles) / RATES.products, (16 * tokenTiles * CHUNK) / RATES.cache);
    const deep = Math.max(1, Math.floor((tokenTiles === 1 ? 48 : tokenTiles === 8 ? 24 : 32) / (2 * rowTiles * kinds[kind].words)));
    const registers = 4 * rowTiles * tokenTiles + 2 * rowTiles * kinds[kind].words * deep + 56;
    for (let splits = 1; splits <= (tokenTiles === 1 ? 1 : MOST_SPLITS); splits++) {
      for (let warps = tokenTiles === 1 ? 4 : 2; warps <= (tokenTiles === 1 ? 12 : 8); warps++) {
        const turns = ceilDiv(chunks, warps * splits);
        const perProcessor = ceilDiv(blocks * splits, multiprocessors);
        const resident = Math.min(perProcessor * warps, Math.floor(2048 / registers / warps) * warps);
        if (resident === 0) continue;
        const parts = splits === 1 ? 0 : (8 * blocks * splits * 16 * rowTiles * 8 * tokenTiles) / (RATES.cache * multiprocessors) + 1;
        const time = perProcessor * warps * turns * turn * Math.max(1, 10 / resident) + (0.7 * turns) / deep + parts;
        if (time < bestTime) [best, bestTime] = [{ tokenTiles, rowTiles, warps, splits, ahead: Math.min(deep, turns) }, time];
      }
    }
  }
  return best!;
}

/** Blocks of each matrix; of a pair, which share their blocks, of the first. */
const blocksOf = (paired: boolean, outs: readonly number[], blockRows: number): number[] =>
  paired ? [ceilDiv(outs[0], blockRows / 2)] : outs.map((out) => ceilDiv(out, blockRows));

/** A row's tail in shared memory: keeps the warp's scattered writes off each other's banks. */
const PAD = 4;

/** Reading a thread's 16 values of one matrix row, and what four of them become: a word of two bf16 each. */
const kinds: Record<DecodeKind, { words: number; bytes: (k: string) => string; setup: string; unpack: string }> = {
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
const matrixParameters = (i: number) => `const u8* codes${i}, const float* absmax${i}, const u8* nested${i}, float offset${i}, const float* b${i}, const float* bias${i}`;

/**
 * y [rows, Σ outs] = x [rows, inner] · Wᵀ + low · Bᵀ + bias. Args: out (`add`: also what is added to), x, low (float32 [rows, Σ ranks]),
 * parts, counters, rows, then for each matrix: codes (int8, NF4 or bf16 values), absmax, nested codes or null, offset, B [out, rank], bias.
 * @param tiling @default the one that should be fastest
 */
export function decodeLinearPlan(shape: DecodeLinearShape, { tokenTiles, rowTiles, warps, splits, ahead }: DecodeTiling = decodeTiling(shape)): DecodeLinearPlan {
  const { kind, output, outs, inner, ranks, biases, rows } = shape;
  const paired = output === 'swiglu';
  const { words, bytes, setup, unpack } = kinds[kind];
  const blockRows = 16 * rowTiles, tokens = 8 * tokenTiles;
  const tiles = blocksOf(paired, outs, blockRows);
  const blocks = tiles.reduce((a, b) => a + b, 0);
  const slices = ceilDiv(rows, TOKENS);
  const lowWidth = ranks.reduce((a, b) => a + b, 0), width = outs.reduce((a, b) => a + b, 0);
  const threads = warps * 32;
  const first = (values: readonly number[], i: number) => values.slice(0, i).reduce((a, b) => a + b, 0);
  /** Picks matrix i of the launch; unrolled comparisons, as parameters cannot be indexed. */
  const pick = (type: string, name: string, of: (i: number) => string) =>
    `${type} ${name} = ${of(0)}; ${outs.slice(1).map((_, j) => `if (which == ${j + 1}) ${name} = ${of(j + 1)};`).join(' ')}`;
  const program: CudaProgram = {
    key: `decode_linear_${kind}_${output}_${outs.join('.')}_${inner}_r${ranks.join('.')}_b${biases.map(Number).join('')}_${tokenTiles}x${rowTiles}_${warps}_${splits}_${ahead}`,
    entry: 'decode_linear',
    grid: [blocks, splits, slices],
    block: [threads, 1, 1],
    sharedBytes: warps * tokens * (blockRows + PAD) * 4,
    source: () => (kind === 'nf4' ? nf4Tables() : '') + /* cuda */ `
constexpr int ROWS = ${blockRows}, RT = ${rowTiles}, NT = ${tokenTiles}, TOKENS = ${tokens}, WARPS = ${warps}, THREADS = ${threads}, SPLITS = ${splits}, AHEAD = ${ahead}, INNER = ${inner}, STRIDE = ROWS + ${PAD};
${unpack}
/** Past the first-level cache: every byte of the matrix is used once. */
template <int N> __device__ __forceinline__ void readOnce(u32 (&to)[N], const u8* from, bool valid) {
  #pragma unroll
  for (int i = 0; i < N; i++) to[i] = 0;
  if (!valid) return;
  if (N == 2) asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(to[0]), "=r"(to[1]) : "l"(from));
  else
    #pragma unroll
    for (int i = 0; i < N; i += 4)
      asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(to[i]), "=r"(to[i + 1]), "=r"(to[i + 2]), "=r"(to[i + 3]) : "l"(from + i * 4));
}
extern "C" __global__ void __launch_bounds__(THREADS) decode_linear(${output === 'store' || output === 'swiglu' ? 'bf16' : 'float'}* out, const bf16* x, const float* low, float* parts, u32* counters, int rows, ${outs.map((_, i) => matrixParameters(i)).join(', ')}) {
  extern __shared__ float sums[];
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  int token0 = blockIdx.z * ${TOKENS};
  ${setup}
  // Which matrix, and which of its rows.
  int tile = blockIdx.x;${paired ? '' : `${outs.length > 1 ? 'int which = 0;' : ''} ${tiles.slice(1).map((_, j) => `if (blockIdx.x >= ${first(tiles, j + 1)}) { which = ${j + 1}; tile = blockIdx.x - ${first(tiles, j + 1)}; }`).join(' ')}
  ${pick('const u8*', 'codes', (i) => `codes${i}`)} ${pick('int', 'out_', (i) => String(outs[i]))}
  ${kind === 'nf4' ? `${pick('const float*', 'absmax', (i) => `absmax${i}`)} ${pick('const u8*', 'nested', (i) => `nested${i}`)} ${pick('float', 'offset', (i) => `offset${i}`)}` : ''}`}
  // Row r * 16 + h * 8 of this thread's, from its first one on: of a pair, even tiles are the first matrix's.
  int row0 = tile * ${paired ? 'ROWS / 2' : 'ROWS'} + g;
  ${paired
    ? `const u8* first0 = codes0 + ${bytes('(i64)row0 * INNER + t * 16')}; const u8* first1 = codes1 + ${bytes('(i64)row0 * INNER + t * 16')};`
    : `const u8* first = codes + ${bytes('(i64)row0 * INNER + t * 16')};`}
  float acc[RT][NT][4];
  #pragma unroll
  for (int r = 0; r < RT; r++)
    #pragma unroll
    for (int n = 0; n < NT; n++) acc[r][n][0] = acc[r][n][1] = acc[r][n][2] = acc[r][n][3] = 0.f;
  const bf16* xs = x + (i64)(token0 + g) * INNER + t * 16;
  constexpr int CHUNKS = ${ceilDiv(inner, CHUNK)}, TURN = WARPS * SPLITS;
  for (int c = blockIdx.y * WARPS + warp; c < CHUNKS; c += TURN * AHEAD) {
    u32 w[AHEAD][RT][2][${words}];
    #pragma unroll
    for (int u = 0; u < AHEAD; u++)
      #pragma unroll
      for (int r = 0; r < RT; r++)
        #pragma unroll
        for (int h = 0; h < 2; h++) {
          int k = (c + u * TURN) * ${CHUNK}, row = ${paired ? '(r >> 1) * 16' : 'r * 16'} + h * 8;
          readOnce(w[u][r][h], ${paired ? '(r & 1 ? first1 : first0)' : 'first'} + ${bytes('row * INNER + k')}, k + t * 16 < INNER && row0 + row < ${paired ? outs[0] : 'out_'});
        }
    #pragma unroll
    for (int u = 0; u < AHEAD; u++) {
      int k = (c + u * TURN) * ${CHUNK};
      bool in = k + t * 16 < INNER;
      ${kind === 'nf4'
        ? `float scale[RT][2];
      #pragma unroll
      for (int r = 0; r < RT; r++)
        #pragma unroll
        for (int h = 0; h < 2; h++) {
          ${paired ? 'const float* absmax = r & 1 ? absmax1 : absmax0; const u8* nested = r & 1 ? nested1 : nested0; float offset = r & 1 ? offset1 : offset0;' : ''}
          int row = row0 + ${paired ? '(r >> 1) * 16' : 'r * 16'} + h * 8;
          i64 block = ((i64)row * INNER + k + t * 16) >> 6;
          scale[r][h] = !in || row >= ${paired ? outs[0] : 'out_'} ? 0.f : nested ? __fadd_rn(__fmul_rn(nested8[nested[block]], absmax[block >> 8]), offset) : absmax[block];
        }`
        : ''}
      #pragma unroll
      for (int half = 0; half < 2; half++) {
        Pack<u32, 4> read[NT];
        #pragma unroll
        for (int n = 0; n < NT; n++)
          read[n] = in && token0 + n * 8 + g < rows ? *reinterpret_cast<const Pack<u32, 4>*>(xs + (i64)n * 8 * INNER + k + half * 8) : Pack<u32, 4>{ { 0, 0, 0, 0 } };
        #pragma unroll
        for (int s = 0; s < 2; s++)
          #pragma unroll
          for (int r = 0; r < RT; r++) {
            u32 a[4];
            unpack(a[0], a[2], w[u][r][0], half * 2 + s, ${kind === 'nf4' ? 'scale[r][0], level' : '0.f, nullptr'});
            unpack(a[1], a[3], w[u][r][1], half * 2 + s, ${kind === 'nf4' ? 'scale[r][1], level' : '0.f, nullptr'});
            #pragma unroll
            for (int n = 0; n < NT; n++) mma(acc[r][n], a, read[n].v[2 * s], read[n].v[2 * s + 1]);
          }
      }
    }
  }
  #pragma unroll
  for (int r = 0; r < RT; r++)
    #pragma unroll
    for (int n = 0; n < NT; n++)
      #pragma unroll
      for (int i = 0; i < 4; i++) sums[(warp * TOKENS + n * 8 + 2 * t + (i & 1)) * STRIDE + r * 16 + (i >> 1) * 8 + g] = acc[r][n][i];
  __syncthreads();
  int tokens = min(TOKENS, rows - token0);
  for (int i = threadIdx.x; i < ROWS * tokens; i += THREADS) {
    int at = i / ROWS * STRIDE + i % ROWS;
    float sum = 0.f;
    #pragma unroll
    for (int v = 0; v < WARPS; v++) sum += sums[v * TOKENS * STRIDE + at];
    sums[at] = sum; // read by this thread alone until the next barrier
  }
  ${splits > 1
    ? `// The last of the blocks that share these rows adds their parts up, in the blocks' order.
  __shared__ bool isLast;
  i64 place = (i64)blockIdx.z * gridDim.x + blockIdx.x;
  float* own = parts + place * SPLITS * ROWS * TOKENS;
  for (int i = threadIdx.x; i < ROWS * tokens; i += THREADS) own[blockIdx.y * ROWS * TOKENS + i] = sums[i / ROWS * STRIDE + i % ROWS];
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) isLast = atomicAdd(counters + place, 1u) == SPLITS - 1;
  __syncthreads();
  if (!isLast) return;
  __threadfence();
  if (threadIdx.x == 0) counters[place] = 0;
  for (int i = threadIdx.x; i < ROWS * tokens; i += THREADS) {
    float sum = 0.f;
    #pragma unroll
    for (int s = 0; s < SPLITS; s++) sum += __ldcg(own + s * ROWS * TOKENS + i);
    sums[i / ROWS * STRIDE + i % ROWS] = sum;
  }`
    : ''}
  __syncthreads();
  ${epilogue()}
}`,
  };
  return {
    program,
    partValues: splits > 1 ? slices * blocks * splits * blockRows * tokens : 0,
    counters: splits > 1 ? slices * blocks : 0,
  };

  /** Scale, branch and bias of row `row` of matrix i for a token. */
  function finished(i: number, value: string): string {
    const rank = ranks[i];
    const scale = kind === 'int8' ? `value *= absmax${i}[row] * __builtin_bit_cast(float, 0x3c010204u); // 1 / 127` : '';
    const branch = rank > 0 ? `#pragma unroll ${Math.min(rank, 16)}
      for (int j = 0; j < ${rank}; j++) value += low[(i64)(token0 + n) * ${lowWidth} + ${first(ranks, i)} + j] * b${i}[(i64)row * ${rank} + j];` : '';
    const bias = biases[i] ? `value += bias${i}[row];` : '';
    return `float value = ${value};
      ${scale}
      ${branch}
      ${bias}`;
  }

  function epilogue(): string {
    if (paired) {
      return `for (int i = threadIdx.x; i < ROWS / 2 * tokens; i += THREADS) {
    int n = i / (ROWS / 2), r = i % (ROWS / 2), row = tile * (ROWS / 2) + r;
    if (row >= ${outs[0]}) continue;
    const float* pair = sums + n * STRIDE + (r >> 4) * 32 + (r & 15);
    float gate, up;
    { ${finished(0, 'pair[0]')} gate = value; }
    { ${finished(1, 'pair[16]')} up = value; }
    out[(i64)(token0 + n) * ${outs[0]} + row] = toBf16(gate / (1.f + __expf(-gate)) * up);
  }`;
    }
    const write = { store: 'out[at] = toBf16(value);', add: 'out[at] += value;', logits: 'out[at] = value;', swiglu: '' }[output];
    return `for (int i = threadIdx.x; i < ROWS * tokens; i += THREADS) {
    int n = i / ROWS, r = i % ROWS, row = tile * ROWS + r;
    if (row >= out_) continue;
    ${outs.map((_, i) => `${outs.length > 1 ? `if (which == ${i}) ` : ''}{
      ${finished(i, 'sums[n * STRIDE + r]')}
      i64 at = (i64)(token0 + n) * ${width} + ${first(outs, i)} + row;
      ${write}
    }`).join('\n    ')}
  }`;
  }
}
