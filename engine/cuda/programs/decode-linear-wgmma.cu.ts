/*
 * Linear layers of a decode step for more than 16 rows, on Hopper: the portable kernel's twin (decode-linear.cu.ts) with products of
 * warpgroups. Bound by the matrix's bytes; the tensor cores and turning codes into bf16 take a third of that time each.
 * The matrix is wgmma's left operand, from registers: a thread reads 16 neighbouring values of a row, and four neighbouring threads
 * exchange them so that each has the columns that the tensor core wants of it. x is the right operand; the copy engine brings it to
 * shared memory in steps, for all warpgroups of a block. These have rows of their own or share the inner dimension.
 * The steps of all tiles of rows, one tile after the other, are dealt to the blocks in equal ranges, so that all end together; the codes of a
 * range are asked for ahead, across its tiles. A tile that lies in several ranges is added up by the last block to finish it, in the blocks' order.
 * Codes wait for their step in shared memory, each thread's in places of its own: asynchronous copies end in order, whereas loads to
 * registers share a scoreboard, on which each step waited for the newest of them (v1, H100, 64 rows by [17280, 3200] int8: 59 us).
 */
import { overlapFunctions } from '../overlapping-launch.js';
import { ceilDiv, type CudaProgram } from '../program.js';
import { decodeKinds, matrixParameters, type DecodeKind, type DecodeLinearPlan, type DecodeLinearShape } from './decode-linear.cu.js';
import { hopperPrelude } from './hopper.cu.js';

export interface DecodeWgmmaTiling {
  /** Warpgroups with 64 rows each of their own, times those that share the inner dimension: at most 4 in all. */
  rowGroups: number;
  innerGroups: number;
  /** Steps whose codes are on their way or in shared memory. */
  ahead: number;
  /** Steps of x in shared memory. */
  stages: number;
  /** Blocks that a multiprocessor shall have room for. */
  resident: number;
}

export interface DecodeWgmmaPlan extends DecodeLinearPlan {
  /** Rows and columns of the boxes that x is copied in. */
  box: { rows: number; columns: number };
}

/** Columns of a step and warpgroup: 128 bytes of x. */
const CHUNK = 64;
const MOST_TOKENS = 64;
const PAD = 4;

/** Whether the kernel takes a launch of this shape, on a card of compute capability 9.0. */
export const fitsDecodeWgmma = ({ kind, outs, rows }: DecodeLinearShape): boolean => kind !== 'nf4' && rows > 16 && outs.every((out) => out % 4 === 0);

/** Of one multiprocessor of an H100, in bytes a microsecond: memory, the L2 cache with all at work, and with few. */
const RATES = { memory: 22_700, cache: 38_000, tail: 50_000 };

/** What the launch should take, in microseconds: the busiest block's reads, and adding up the tile that is done last. */
function estimate(shape: DecodeLinearShape, [rowGroups, innerGroups]: readonly [number, number]): number {
  const { kind, inner, multiprocessors } = shape;
  const tokens = tokensOf(shape.rows), rows = 64 * rowGroups;
  const steps = ceilDiv(ceilDiv(inner, CHUNK), innerGroups), tiles = tilesOf(shape, rows).reduce((a, b) => a + b, 0);
  const each = ceilDiv(steps * tiles, multiprocessors), codes = (rows * innerGroups * CHUNK * decodeKinds[kind].words) / 4, x = innerGroups * CHUNK * tokens * 2;
  const parts = 1 + ceilDiv(steps, each);
  return each * Math.max(codes / RATES.memory, (codes + x) / RATES.cache) + (parts * rows * tokens * 4) / RATES.tail;
}

export function decodeWgmmaTiling(shape: DecodeLinearShape): DecodeWgmmaTiling {
  const [rowGroups, innerGroups] = ([[4, 1], [2, 2], [1, 4]] as const).reduce((best, next) => (estimate(shape, next) < estimate(shape, best) ? next : best));
  return wgmmaTilingOf(shape, rowGroups, innerGroups, 1);
}

/** Shared memory of a multiprocessor of compute capability 9.0, and what of it a block has beside what it asks for (barriers, the device's own). */
const SHARED_BYTES = 228 << 10, RESERVED_BYTES = 2 << 10;

/** A tiling with as much under way as shared memory allows. */
export function wgmmaTilingOf({ kind, rows }: DecodeLinearShape, rowGroups: number, innerGroups: number, resident: number): DecodeWgmmaTiling {
  const tokens = tokensOf(rows);
  const stage = innerGroups * tokens * 128, stages = Math.max(3, Math.min(6, Math.floor((64 << 10) / resident / stage)));
  const left = SHARED_BYTES / resident - RESERVED_BYTES - fixedBytes({ rowGroups, innerGroups, stages }, tokens);
  return { rowGroups, innerGroups, resident, stages, ahead: Math.min(8, Math.floor(left / codeBytes(kind, rowGroups * innerGroups))) };
}

/** Shared memory for x and the sums, with what aligning them takes. */
const fixedBytes = ({ rowGroups, innerGroups, stages }: Pick<DecodeWgmmaTiling, 'rowGroups' | 'innerGroups' | 'stages'>, tokens: number): number =>
  1024 + innerGroups * tokens * (stages * 128 + (64 * rowGroups + PAD) * 4);

/** And for the codes of a step. */
const codeBytes = (kind: DecodeKind, groups: number): number => 128 * groups * 2 * decodeKinds[kind].words * 4;

/** Two sizes, as each is a kernel to compile; rows that are not there cost products, which there is time for. */
const tokensOf = (rows: number): number => (rows <= 32 ? 32 : MOST_TOKENS);

/** Tiles of each matrix; of a pair, which share their tiles, of the first. */
const tilesOf = ({ output, outs }: DecodeLinearShape, rows: number): number[] => (output === 'swiglu' ? [ceilDiv(outs[0], rows / 2)] : outs.map((out) => ceilDiv(out, rows)));

/**
 * As `decodeLinearPlan`, for shapes that fit (`fitsDecodeWgmma`). The same arguments but for x, which is a tensor map of bf16 [rows, inner] with boxes as
 * the plan says.
 * @param tiling @default the one that should be fastest
 */
export function decodeLinearWgmmaPlan(shape: DecodeLinearShape, { rowGroups, innerGroups, ahead, stages, resident }: DecodeWgmmaTiling = decodeWgmmaTiling(shape)): DecodeWgmmaPlan {
  const { kind, output, outs, inner, ranks, biases, rows, multiprocessors } = shape;
  const paired = output === 'swiglu';
  const { words, bytes } = decodeKinds[kind];
  const tileRows = 64 * rowGroups, tokens = tokensOf(rows), slices = ceilDiv(rows, MOST_TOKENS);
  const tiles = tilesOf(shape, tileRows), allTiles = tiles.reduce((a, b) => a + b, 0);
  const chunks = ceilDiv(inner, CHUNK), steps = ceilDiv(chunks, innerGroups), units = steps * allTiles;
  const blocks = Math.min(units, resident * multiprocessors);
  const threads = 128 * rowGroups * innerGroups, stageBytes = innerGroups * tokens * 128;
  const first = (values: readonly number[], i: number) => values.slice(0, i).reduce((a, b) => a + b, 0);
  const lowWidth = first(ranks, ranks.length), width = first(outs, outs.length), mostRank = Math.max(...ranks);
  const type = output === 'store' || output === 'swiglu' ? 'bf16' : 'float';
  const anyBias = biases.some(Boolean);
  const acrossRows = paired ? tileRows / 2 : tileRows;
  const asked = Math.min(4, ceilDiv((acrossRows / 4) * tokens, threads));
  const matrix = (i: number, row: string) => `{ codes${i}, absmax${i}, b${i}, bias${i}, ${outs[i]}, ${ranks[i]}, ${first(ranks, i)}, ${paired ? 0 : first(outs, i)}, ${row} }`;
  const program: CudaProgram = {
    key: `decode_linear_wgmma_${kind}_${output}_${outs.join('.')}_${inner}_r${ranks.join('.')}_b${biases.map(Number).join('')}_${tokens}_${rowGroups}x${innerGroups}_${ahead}_${stages}_${blocks}x${resident}`,
    entry: 'decode_linear_wgmma',
    architecture: 'sm_90a',
    grid: [blocks, slices, 1],
    block: [threads, 1, 1],
    sharedBytes: fixedBytes({ rowGroups, innerGroups, stages }, tokens) + ahead * codeBytes(kind, rowGroups * innerGroups),
    overlaps: true,
    source: () => overlapFunctions + hopperPrelude + rowProduct(tokens) + /* cuda */ `
constexpr int ROW_GROUPS = ${rowGroups}, INNER_GROUPS = ${innerGroups}, ROWS = ${tileRows}, TOKENS = ${tokens}, INNER = ${inner}, CHUNKS = ${chunks}, STEPS = ${steps}, UNITS = ${units}, BLOCKS = ${blocks};
constexpr int AHEAD = ${ahead}, STAGES = ${stages}, STAGE_BYTES = ${stageBytes}, THREADS = ${threads}, STRIDE = ROWS + ${PAD};
constexpr int PIECES = ${words / 4}, PIECE_BYTES = THREADS * 16; // of a row's 16 values; all threads' pieces
${codeFunctions}
${kind === 'int8'
  ? `/** A byte in the lower half of each 16 bits to bf16: 128 + its low seven bits is exact, and from that goes 128, or 256 under a sign bit. */
__device__ __forceinline__ u32 toPair(u32 bytes, u32 low, u32 sign) {
  u32 magnitude = (bytes & low) | 0x43004300u, offset = (bytes & sign) | 0xc300c300u, y;
  asm("add.rn.bf16x2 %0, %1, %2;" : "=r"(y) : "r"(magnitude), "r"(offset));
  return y;
}`
  : ''}
/** Words a, b, c, d of four neighbouring lanes as a matrix with a lane a row: transposed. */
__device__ __forceinline__ void exchange(u32& a, u32& b, bool second, int distance) {
  u32 got = __shfl_xor_sync(0xffffffffu, second ? a : b, distance);
  if (second) a = got; else b = got;
}
__device__ __forceinline__ void transpose(u32& a, u32& b, u32& c, u32& d, int t) {
  exchange(a, b, t & 1, 1); exchange(c, d, t & 1, 1);
  exchange(a, c, t & 2, 2); exchange(b, d, t & 2, 2);
}
/** From a lane's 16 neighbouring values to its columns of each of four steps of 16: ${kind === 'int8' ? 'a word of 2t, 2t + 8, 2t + 1 and 2t + 9' : 'words of 2t, 2t + 1 and of 2t + 8, 2t + 9'}. */
__device__ __forceinline__ void scatter(u32 (&w)[${words}], int t) {
  ${kind === 'int8'
    ? `u32 a = __byte_perm(w[0], w[2], 0x5140), b = __byte_perm(w[0], w[2], 0x7362), c = __byte_perm(w[1], w[3], 0x5140), d = __byte_perm(w[1], w[3], 0x7362);
  transpose(a, b, c, d, t);
  w[0] = a; w[1] = b; w[2] = c; w[3] = d;`
    : `u32 a = w[0], b = w[1], c = w[2], d = w[3], e = w[4], f = w[5], g = w[6], h = w[7];
  transpose(a, b, c, d, t); transpose(e, f, g, h, t);
  w[0] = a; w[1] = e; w[2] = b; w[3] = f; w[4] = c; w[5] = g; w[6] = d; w[7] = h;`}
}
/** Has the L2 cache fetch what will be read later. */
__device__ __forceinline__ void askFor(const void* address) { asm volatile("prefetch.global.L2 [%0];" :: "l"(address)); }
/** The matrix that a tile belongs to: its out features, LoRA rank, first low value and first column of y; row: the tile's first. */
struct Tile { const u8* codes; const float* absmax; const float* b; const float* bias; int out, rank, low, column, row; };
/** The range of steps that a block has, and the block that has a step. */
__device__ __forceinline__ int firstOf(int block) { return (int)((i64)block * UNITS / BLOCKS); }
__device__ __forceinline__ int blockOf(int unit) { return (int)(((i64)(unit + 1) * BLOCKS - 1) / UNITS); }
extern "C" __global__ void __launch_bounds__(THREADS, ${resident}) decode_linear_wgmma(${type}* out, const __grid_constant__ TensorMap x, const float* low, float* parts, u32* counters, int rows, ${outs.map((_, i) => matrixParameters(i)).join(', ')}) {
  extern __shared__ u8 shared[];
  __shared__ __align__(8) u64 barriers[2 * STAGES];
  __shared__ bool isLast;
  u32 staged = (sharedAddress(shared) + 1023) & ~1023u, full = sharedAddress(barriers), empty = full + 8 * STAGES;
  float* sums = reinterpret_cast<float*>(shared + (staged - sharedAddress(shared)) + STAGES * STAGE_BYTES);
  letNextBegin();
  int lane = threadIdx.x & 31, warp = __shfl_sync(0xffffffffu, threadIdx.x >> 5, 0), g = lane >> 2, t = lane & 3;
  int token0 = blockIdx.y * ${MOST_TOKENS};
  int begin = firstOf(blockIdx.x), end = firstOf(blockIdx.x + 1);
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; i++) { barrierInit(full + 8 * i, 1); barrierInit(empty + 8 * i, THREADS / 32); }
    fenceBarriers();
  }
  __syncthreads();
  /** One thread's: x of a step into a stage. */
  auto copy = [&](int unit, int stage) {
    int chunk = unit % STEPS * INNER_GROUPS, count = min(INNER_GROUPS, CHUNKS - chunk);
    expectBytes(full + 8 * stage, count * TOKENS * 128);
    for (int j = 0; j < count; j++) copyBox(staged + stage * STAGE_BYTES + j * TOKENS * 128, &x, full + 8 * stage, (chunk + j) * ${CHUNK}, token0, 0);
  };
  // A warp has 16 rows of a tile: of a pair, the tile's first half is the first matrix'.
  int group = warp >> 2, innerGroup = group / ROW_GROUPS, strip = group % ROW_GROUPS * 4 + (warp & 3);
  int ownRow = ${paired ? 'strip % (2 * ROW_GROUPS) * 16' : 'strip * 16'} + g;
  auto tileOf = [&](int tile) {
    ${paired
      ? `Tile of = ${matrix(0, 'tile * (ROWS / 2)')};
    if (strip >= 2 * ROW_GROUPS) of = ${matrix(1, 'tile * (ROWS / 2)')};`
      : `Tile of = ${matrix(0, 'tile * ROWS')};
    ${tiles.slice(1).map((_, j) => `if (tile >= ${first(tiles, j + 1)}) of = ${matrix(j + 1, `(tile - ${first(tiles, j + 1)}) * ROWS`)};`).join('\n    ')}`}
    return of;
  };
  ${kind === 'int8' ? 'u32 lowBits = 0x007f007fu + (rows < 0), signBits = 0x00800080u + (rows < 0); // unknown to the compiler, so that they stay in registers' : ''}
  // Nothing needs zeros: what lies beyond a row's end meets x's zeros, and rows beyond the matrix are not written.
  struct Place { const u8* codes; int down; };
  /** A thread's first row of a tile, and from there to the row eight below; in place of rows that are not there the last one. */
  auto find = [&](int tile) {
    Tile of = tileOf(tile);
    int row = min(of.row + ownRow, of.out - 1), below = min(of.row + ownRow + 8, of.out - 1);
    return Place{ of.codes + ${bytes('(i64)row * INNER')}, ${bytes('(below - row) * INNER')} };
  };
  u32 slots = staged + STAGES * STAGE_BYTES + INNER_GROUPS * TOKENS * STRIDE * 4 + threadIdx.x * 16;
  int asked = begin, askedTile = begin / STEPS, askedStep = begin % STEPS;
  Place place = find(askedTile);
  /** The next step's codes, a group of copies also where there are none. */
  auto ask = [&](u32 slot) {
    if (asked < end) {
      int chunk = askedStep * INNER_GROUPS + innerGroup, k = ${inner % CHUNK ? `min(chunk * ${CHUNK} + t * 16, INNER - 16)` : `chunk * ${CHUNK} + t * 16`};
      const u8* first = place.codes + ${bytes('k')};
      if (chunk < CHUNKS)
        #pragma unroll
        for (int i = 0; i < PIECES; i++) {
          copyCodes(slot + i * PIECE_BYTES, first + i * 16);
          copyCodes(slot + (PIECES + i) * PIECE_BYTES, first + place.down + i * 16);
        }
      asked++;
      if (++askedStep == STEPS) {
        askedStep = 0; askedTile++;
        if (asked < end) place = find(askedTile);
      }
    }
    endCodes();
  };
  int slot = 0;
  for (int i = 0; i < AHEAD; i++) ask(slots + i * (2 * PIECES * PIECE_BYTES));
  int tile = begin / STEPS, from = begin % STEPS, count = min(STEPS - from, end - begin);
  waitForPrevious();
  if (threadIdx.x == 0) for (int i = 0; i < STAGES && begin + i < end; i++) copy(begin + i, i);
  int at = 0;
  u32 phase = 0;
  for (int done = begin; done < end;) {
    ${kind === 'int8' || lowWidth > 0
      ? `Tile of = tileOf(tile);
    if (t < 2 && of.row + ownRow + 8 * t < of.out) { // what the tile's end needs of this thread's rows
      int row = of.row + ownRow + 8 * t;
      ${kind === 'int8' ? 'askFor(of.absmax + row);' : ''}
      ${lowWidth > 0 ? 'if (from == 0 && of.rank) askFor(of.b + (i64)row * of.rank);' : ''}
    }`
      : ''}
    float acc[TOKENS / 2];
    #pragma unroll
    for (int i = 0; i < TOKENS / 2; i++) acc[i] = 0.f;
    #pragma unroll 1
    for (int i = 0; i < count; i++) {
      u32 a[4][4], codes = slots + slot * (2 * PIECES * PIECE_BYTES);
      waitCodes<AHEAD - 1>();
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        u32 w[${words}];
        #pragma unroll
        for (int j = 0; j < PIECES; j++) readCodes(w + 4 * j, codes + (h * PIECES + j) * PIECE_BYTES);
        scatter(w, t);
        #pragma unroll
        for (int s = 0; s < 4; s++) {
          ${kind === 'int8'
            ? 'a[s][h] = toPair(w[s], lowBits, signBits); a[s][h + 2] = toPair(w[s] >> 8, lowBits, signBits);'
            : 'a[s][h] = w[2 * s]; a[s][h + 2] = w[2 * s + 1];'}
        }
      }
      waitBarrier(full + 8 * at, phase);
      if ((from + i) * INNER_GROUPS + innerGroup < CHUNKS) {
        u64 b = alongRows(staged + at * STAGE_BYTES + innerGroup * TOKENS * 128);
        fenceProducts();
        #pragma unroll
        for (int s = 0; s < 4; s++) rowProduct(acc, a[s], b + 2 * s);
        commitProducts();
      }
      ask(codes);
      if (++slot == AHEAD) slot = 0;
      int unit = done + i;
      if (warp == 0 && unit > begin && unit - 1 + STAGES < end) { // the stage of the step before is filled again
        int stage = (at ? at : STAGES) - 1;
        waitBarrier(empty + 8 * stage, at ? phase : phase ^ 1);
        if (lane == 0) copy(unit - 1 + STAGES, stage);
        __syncwarp();
      }
      waitProducts<0>();
      if (lane == 0) arrive(empty + 8 * at);
      if (++at == STAGES) { at = 0; phase ^= 1; }
    }
    pin(acc);
    ${kind === 'int8' || lowWidth > 0 ? 'int left = of.out - of.row - ownRow; // rows from this thread\'s first to the matrix\' end' : 'Tile of = tileOf(tile);'}
    ${kind === 'int8'
      ? `#pragma unroll
    for (int h = 0; h < 2; h++) {
      float factor = left > 8 * h ? of.absmax[of.row + ownRow + 8 * h] * __builtin_bit_cast(float, 0x3c010204u) : 0.f; // 1 / 127
      #pragma unroll
      for (int n = 0; n < TOKENS / 8; n++) { acc[4 * n + 2 * h] *= factor; acc[4 * n + 2 * h + 1] *= factor; }
    }`
      : ''}
    ${lowWidth > 0
      ? `// The LoRA branch is one more step of the product; whoever has a tile's first step adds it.
    if (from == 0 && innerGroup == 0) {
      auto pair = [&](const float* values, int j, bool in) { return packBf16(in && j < of.rank ? values[j] : 0.f, in && j + 1 < of.rank ? values[j + 1] : 0.f); };
      #pragma unroll 1
      for (int j = 2 * t; j < ${ceilDiv(mostRank, 16) * 16}; j += 16) {
        u32 a[4];
        #pragma unroll
        for (int h = 0; h < 2; h++) {
          const float* up = of.b + (i64)(of.row + ownRow + 8 * h) * of.rank;
          a[h] = pair(up, j, left > 8 * h); a[h + 2] = pair(up, j + 8, left > 8 * h);
        }
        #pragma unroll
        for (int n = 0; n < TOKENS / 8; n++) {
          int token = token0 + n * 8 + g;
          const float* down = low + (i64)token * ${lowWidth} + of.low;
          mma(reinterpret_cast<float (&)[4]>(acc[4 * n]), a, pair(down, j, token < rows), pair(down, j + 8, token < rows));
        }
      }
    }`
      : ''}
    __syncthreads(); // the sums of the tile before have been read
    #pragma unroll
    for (int n = 0; n < TOKENS / 8; n++)
      #pragma unroll
      for (int i = 0; i < 4; i++) sums[(innerGroup * TOKENS + n * 8 + 2 * t + (i & 1)) * STRIDE + strip * 16 + (i >> 1) * 8 + g] = acc[4 * n + i];
    __syncthreads();
    auto summed = [&](int n, int r) {
      Pack<float, 4> sum = loadPack<4>(sums + n * STRIDE + r);
      #pragma unroll
      for (int j = 1; j < INNER_GROUPS; j++) {
        Pack<float, 4> more = loadPack<4>(sums + (j * TOKENS + n) * STRIDE + r);
        #pragma unroll
        for (int i = 0; i < 4; i++) sum.v[i] += more.v[i];
      }
      return sum;
    };
    int tokens = min(TOKENS, rows - token0);
    int firstBlock = blockOf(tile * STEPS), lastBlock = blockOf(tile * STEPS + STEPS - 1);
    bool whole = firstBlock == lastBlock, finishes = whole;
    /** A block has at most two parts of tiles: the end of one, and the beginning of another. */
    auto partOf = [&](int block) { return parts + (((i64)blockIdx.y * BLOCKS + block) * 2 + (block == firstBlock)) * ROWS * TOKENS; };
    if (!whole) {
      float* own = partOf(blockIdx.x);
      #pragma unroll 4
      for (int i = threadIdx.x * 4; i < ROWS * tokens; i += THREADS * 4) storePack(own + i, summed(i / ROWS, i % ROWS));
      __threadfence();
      __syncthreads();
      u32* counter = counters + blockIdx.y * ${allTiles} + tile;
      if (threadIdx.x == 0) isLast = atomicAdd(counter, 1u) == (u32)(lastBlock - firstBlock);
      __syncthreads();
      finishes = isLast;
      if (finishes) {
        __threadfence();
        if (threadIdx.x == 0) *counter = 0;
      }
    }
    if (finishes) {
      constexpr int ACROSS = ${acrossRows / 4}, ASKED = ${asked};
      for (int i0 = threadIdx.x; i0 < ACROSS * tokens; i0 += THREADS * ASKED) {
        Pack<float, 4> y[ASKED]${paired ? ', other[ASKED]' : ''}${output === 'add' ? ', before[ASKED]' : ''};
        #pragma unroll
        for (int u = 0; u < ASKED; u++) {
          int i = i0 + u * THREADS, n = i / ACROSS, r = i % ACROSS * 4;
          if (n >= tokens || of.row + r >= of.out) continue;
          ${output === 'add' ? `before[u] = loadPack<4>(out + (i64)(token0 + n) * ${width} + of.row + r);` : ''}
          y[u] = whole ? summed(n, r) : Pack<float, 4>{};
          ${paired ? 'other[u] = whole ? summed(n, r + ROWS / 2) : Pack<float, 4>{};' : ''}
        }
        if (!whole)
          for (int block = firstBlock; block <= lastBlock; block++) {
            const float* part = partOf(block);
            #pragma unroll
            for (int u = 0; u < ASKED; u++) {
              int i = i0 + u * THREADS, n = i / ACROSS, r = i % ACROSS * 4;
              if (n >= tokens) continue;
              auto add = [&](Pack<float, 4>& to, int r) {
                float4 more = __ldcg(reinterpret_cast<const float4*>(part + n * ROWS + r));
                to.v[0] += more.x; to.v[1] += more.y; to.v[2] += more.z; to.v[3] += more.w;
              };
              add(y[u], r);
              ${paired ? 'add(other[u], r + ROWS / 2);' : ''}
            }
          }
        #pragma unroll
        for (int u = 0; u < ASKED; u++) {
          int i = i0 + u * THREADS, n = i / ACROSS, r = i % ACROSS * 4, row = of.row + r;
          if (n >= tokens || row >= of.out) continue;
          Pack<${type}, 4> result;
          #pragma unroll
          for (int j = 0; j < 4; j++) {
            ${paired
              ? `float gate = y[u].v[j]${biases[0] ? ' + bias0[row + j]' : ''}, up = other[u].v[j]${biases[1] ? ' + bias1[row + j]' : ''};
            result.v[j] = toBf16(gate / (1.f + __expf(-gate)) * up);`
              : `float value = y[u].v[j]${anyBias ? ' + (of.bias ? of.bias[row + j] : 0.f)' : ''}${output === 'add' ? ' + before[u].v[j]' : ''};
            result.v[j] = ${type === 'bf16' ? 'toBf16(value)' : 'value'};`}
          }
          storePack(out + (i64)(token0 + n) * ${paired ? outs[0] : width} + of.column + row, result);
        }
      }
    }
    done += count; tile++; from = 0; count = min(STEPS, end - done);
  }
}`,
  };
  const shared = blocks > 1 || units > steps;
  return { program, partValues: shared ? slices * blocks * 2 * tileRows * tokens : 0, counters: shared ? slices * allTiles : 0, box: { rows: tokens, columns: CHUNK } };
}

/** d[64 x columns] += a · bᵀ: a [64 x 16] in registers, b [columns x 16] \`alongRows\`. */
const rowProduct = (columns: number): string => {
  const count = columns / 2;
  const list = (from: number, length: number) => Array.from({ length }, (_, i) => `%${from + i}`).join(', ');
  return /* cuda */ `
__device__ __forceinline__ void rowProduct(float (&d)[${count}], const u32 (&a)[4], u64 b) {
  asm volatile("{\\n.reg .pred add;\\nsetp.eq.b32 add, 0, 0;\\nwgmma.mma_async.sync.aligned.m64n${columns}k16.f32.bf16.bf16 {${list(0, count)}}, {${list(count, 4)}}, %${count + 4}, add, 1, 1, 0;\\n}"
    : ${Array.from({ length: count }, (_, i) => `"+f"(d[${i}])`).join(', ')} : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}`;
};

/**
 * A thread's 16 bytes of a matrix into a place of its own and from there: nobody else reads them, so nobody has to be waited for. Past the
 * first-level cache, as every byte is used once, and with what lies beside them, as memory gives long rows of bytes fastest.
 */
const codeFunctions = /* cuda */ `
__device__ __forceinline__ void copyCodes(u32 to, const u8* from) { asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;" :: "r"(to), "l"(from) : "memory"); }
__device__ __forceinline__ void endCodes() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> __device__ __forceinline__ void waitCodes() { asm volatile("cp.async.wait_group %0;" :: "n"(PENDING) : "memory"); }
__device__ __forceinline__ void readCodes(u32* to, u32 from) {
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from) : "memory");
}`;
