/*
 * What attention's kernels for Hopper have in common. A block has one warpgroup that orders copies (one thread of it does) and two or
 * three that compute, 64 rows each. It takes one piece of work after the other from a counter: own tiles that stay, in one or two buffers, and tiles
 * that stream past them in stages, each with a barrier for "full" and one for "empty", so that copies run ahead into the next piece. Tiles are copied
 * in whole steps of 16 columns, from a multiple of 8 on (at others the copy engine stops with an illegal instruction), or of 16, so that they
 * are whole sectors of the L2 cache: with a head size of 100 an odd head begins 4 columns into its tile, or 4, 8 or 12. What is left and right of it is other heads': the tiles that stay in shared
 * memory get zeros there, which takes it out of the scores; in the other products it ends in columns nobody stores.
 */
import { ceilDiv, type CudaProgram } from '../program.js';
import { accessBytes, type AttentionShape } from './attention-shape.js';
import { hopperPrelude, wgmmaProducts } from './hopper.cu.js';

/** Tile sizes of one of the kernels. */
export interface WgmmaTiles {
  /** Warpgroups that compute, 2 or 3. */
  groups: number;
  /** Rows of the tiles that stream past them. */
  streamed: number;
  stages: number;
  /** Buffers of own tiles: with two, copies run ahead into the next piece of work. */
  buffers: 1 | 2;
  /** Warpgroups start their products in turn, so that one's exponentials meet another's products. @default false */
  turns?: boolean;
  /** Tiles begin at multiples of 32 bytes: fewer sectors of the L2 cache are read, products have a few columns more; needs `fitsSectors`. @default false */
  sectors?: boolean;
}

/** Columns of a chunk: 128 bytes. */
const CHUNK = 64;

/** Columns that a tile begins at multiples of. */
const beginStep = (sectors = false): number => (sectors ? 16 : 8);

/** Most columns between such a multiple and the start of a head. */
const mostShift = (headSize: number, sectors?: boolean): number => beginStep(sectors) - Math.min(beginStep(sectors), headSize & -headSize);

/** Columns of a tile: whole steps of 16. */
const tileColumns = (headSize: number, sectors?: boolean): number => ceilDiv(headSize + mostShift(headSize, sectors), 16) * 16;

const chunks = (headSize: number, sectors?: boolean): number => ceilDiv(tileColumns(headSize, sectors), CHUNK);

/** Columns of a product whose rows are as long as a head's: whole steps of 8, where inner dimensions have steps of 16. */
export const outputColumns = (headSize: number, sectors?: boolean): number => ceilDiv(headSize + mostShift(headSize, sectors), 8) * 8;

/** Columns of the boxes that a tile is copied in. */
export const boxColumns = (headSize: number, sectors?: boolean): number[] =>
  Array.from({ length: chunks(headSize, sectors) }, (_, i) => Math.min(CHUNK, tileColumns(headSize, sectors) - i * CHUNK));

/** Bytes of a tile in shared memory. */
const tileBytes = (headSize: number, rows: number, sectors?: boolean): number => chunks(headSize, sectors) * rows * 128;

/** Shared memory of `own` tiles of a block's own rows a buffer and `streamed` tiles a stage; the first starts at a multiple of 1,024. */
export const wgmmaSharedBytes = (headSize: number, tiles: WgmmaTiles, own: number, streamed: number): number =>
  1024 + tiles.buffers * own * tileBytes(headSize, tiles.groups * 64, tiles.sectors) + tiles.stages * streamed * tileBytes(headSize, tiles.streamed, tiles.sectors);

/** The copy engine needs rows that start at multiples of 16 bytes, the scores a key head that begins where its query heads do. */
export const fitsCopyEngine = ({ heads, kvHeads, headSize }: AttentionShape): boolean =>
  (heads * headSize) % 8 === 0 && (headSize % 8 === 0 || heads === kvHeads) && tileColumns(headSize) <= 2 * CHUNK;

/** Whether tiles may begin at multiples of 32 bytes, and whether that makes a difference. */
export const fitsSectors = (shape: AttentionShape): boolean =>
  fitsCopyEngine(shape) && shape.headSize % 16 !== 0 && shape.heads === shape.kvHeads && tileColumns(shape.headSize, true) <= 2 * CHUNK;

/** Registers of a thread that orders copies, and of one that computes: 64 Ki for all. */
const registers = (groups: number) => (groups === 2 ? [40, 232] : [32, 160]);

/** Two tensors' rows of the heads whose tiles are started together, the longest first: they stay in the L2 cache meanwhile. */
const SECTION_BYTES = 32 << 20;

/** Heads of a section, of `pairs` heads in all rows of the batch. */
export const sectionHeads = ({ length, headSize }: AttentionShape, pairs: number): number => ceilDiv(pairs, ceilDiv(pairs * 4 * length * headSize, SECTION_BYTES));

/** The part of a kernel's key that names its tiles. */
export const tilesKey = ({ groups, streamed, stages, buffers, turns, sectors }: WgmmaTiles): string => `${groups}x${streamed}x${stages}x${buffers}${turns ? '_turns' : ''}${sectors ? '_sectors' : ''}`;

/** A block a multiprocessor, unless there is less to do. */
export const wgmmaGrid = (pieces: number, multiprocessors: number): CudaProgram['grid'] => [Math.min(pieces, multiprocessors), 1, 1];

export const wgmmaBlock = ({ groups }: WgmmaTiles): CudaProgram['block'] => [(groups + 1) * 128, 1, 1];

export const wgmmaCommon = (headSize: number, tiles: WgmmaTiles, products: readonly number[]): string => {
  const [producer, consumer] = registers(tiles.groups);
  const columns = boxColumns(headSize, tiles.sectors);
  return `${hopperPrelude}${wgmmaProducts(products)}${/* cuda */ `
constexpr int D = ${headSize}, DP = ${tileColumns(headSize, tiles.sectors)}, DN = ${outputColumns(headSize, tiles.sectors)}, CHUNKS = ${columns.length}, ACCESS = ${accessBytes(headSize)};
constexpr int GROUPS = ${tiles.groups}, ROWS = GROUPS * 64, STREAMED = ${tiles.streamed}, STAGES = ${tiles.stages}, THREADS = (GROUPS + 1) * 128;
constexpr int COPY_REGISTERS = ${producer}, COMPUTE_REGISTERS = ${consumer};
/** Shared memory of a tile, and the bytes that are copied into it. */
constexpr u32 sharedBytes(int rows) { return CHUNKS * rows * 128; }
constexpr u32 copiedBytes(int rows) { return DP * rows * 2; }
#define LOG2E 1.4426950408889634f
#define SEES_NOTHING 0x7fffffff

__device__ __forceinline__ float exp2Fast(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }

/** Columns of a tile before its head's first. */
__device__ __forceinline__ int shiftOf(int head) { return D % ${beginStep(tiles.sectors)} ? head * D & ${beginStep(tiles.sectors) - 1} : 0; }
/** A tile of one head; maps: one for whole chunks, one for the last. */
__device__ __forceinline__ void copyTile(u32 to, int rows, const TensorMap* whole, const TensorMap* last, u32 barrier, int head, int row, int batch) {
  #pragma unroll
  for (int c = 0; c < CHUNKS; c++) copyBox(to + c * rows * 128, c == CHUNKS - 1 ? last : whole, barrier, head * D - shiftOf(head) + c * 64, row, batch);
}
/** Zeros in the columns of a tile of 64 rows that are not the head's. A thread of the warpgroup has half a row. */
__device__ __forceinline__ void clearPadding(unsigned char* tile, int shift, int thread) {
  int row = thread >> 1;
  for (int i = 2 * (thread & 1); i < DP - D; i += 4) {
    int column = i < shift ? i : i + D;
    *(u32*)(tile + (column >> 6) * 64 * 128 + swizzled(row, (column & 63) * 2)) = 0;
  }
}
/** Step of 16 columns within a tile of so many rows, in a descriptor's units. */
__device__ __forceinline__ constexpr int columnStep(int step, int rows) { return (step >> 2) * rows * 8 + (step & 3) * 2; }
/** d = a · bᵀ over the head's columns: a 64 rows of a tile of 64, b a tile of rows. */
template <int N> __device__ __forceinline__ void scoreProduct(float (&d)[N], u64 a, u64 b) {
  #pragma unroll
  for (int step = 0; step < DP / 16; step++) productShared(d, a + columnStep(step, 64), b + columnStep(step, N * 2), step > 0);
}
/** d += a · b: a 64 x N*2 in registers, b a tile of N*2 rows. */
template <int N> __device__ __forceinline__ void sumProduct(float (&d)[DN / 2], const u32 (&a)[N], u64 b) {
  #pragma unroll
  for (int step = 0; step < N / 4; step++) productRegisters(d, a[4 * step], a[4 * step + 1], a[4 * step + 2], a[4 * step + 3], b + step * 128);
}
/** Accumulators as the a operand of the next product. */
template <int N> __device__ __forceinline__ void packRows(u32 (&a)[N / 2], const float (&x)[N]) {
  #pragma unroll
  for (int i = 0; i < N / 2; i++) a[i] = packBf16(x[2 * i], x[2 * i + 1]);
}
/** Where a value of a tile of 64 rows is. */
__device__ __forceinline__ bf16* inTile(unsigned char* tile, int row, int column) { return (bf16*)(tile + (column >> 6) * 64 * 128 + swizzled(row, (column & 63) * 2)); }
/** A warp's 16 rows of accumulators, times scale[0] (rows g) and scale[1] (rows g + 8), as bf16 to their rows of a tile that nobody else reads any longer. */
__device__ __forceinline__ void placeRows(unsigned char* tile, const float (&d)[DN / 2], const float (&scale)[2], int warp) {
  int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  #pragma unroll
  for (int j = 0; j < DN / 8; j++)
    #pragma unroll
    for (int h = 0; h < 2; h++)
      *(u32*)(tile + (j >> 3) * 64 * 128 + swizzled(warp * 16 + g + 8 * h, (j & 7) * 16 + t * 4)) = packBf16(d[4 * j + 2 * h] * scale[h], d[4 * j + 2 * h + 1] * scale[h]);
  __syncwarp();
}
/** The same to global memory; they pass the tile of the warpgroup's 64 rows, so that whole rows are written at once. */
__device__ __forceinline__ void storeRows(bf16* to, i64 rowStride, int rows, unsigned char* tile, const float (&d)[DN / 2], const float (&scale)[2], int shift, int warp) {
  placeRows(tile, d, scale, warp);
  constexpr int VALUES = ACCESS / 2, UNITS = D / VALUES;
  for (int i = laneNow(); i < 16 * UNITS; i += 32) {
    int row = warp * 16 + i / UNITS, column = i % UNITS * VALUES + shift;
    if (row < rows) storePack<VALUES>(to + row * rowStride + column - shift, loadPack<VALUES>(inTile(tile, row, column)));
  }
}
/** Zeros behind the columns of a warp's 16 rows; where there is room, columns are a multiple of 8. to: the warpgroup's first row. */
__device__ __forceinline__ void clearRoom(bf16* to, int columns, int stride, int rows, int warp) {
  int units = (stride - columns) >> 3;
  for (int i = laneNow(); i < 16 * units; i += 32) {
    int row = warp * 16 + i / units;
    if (row < rows) storePack<8>(to + (i64)row * stride + columns + i % units * 8, Pack<bf16, 8>{});
  }
}
constexpr int OWN = ${tiles.buffers}; // buffers of own tiles
constexpr bool TURNS = ${tiles.turns ?? false};
/** A warpgroup's turn to start products; group 1 begins. */
__device__ __forceinline__ void beginTurns(int group) { if (TURNS && group == GROUPS) arriveGroup(8 + 1, 256); }
__device__ __forceinline__ void awaitTurn(int group) { if (TURNS) syncGroup(8 + group, 256); }
__device__ __forceinline__ void passTurn(int group) { if (TURNS) arriveGroup(8 + group % GROUPS + 1, 256); }
/** Position in a ring of buffers; phase: the parity of the barriers' current phase. */
template <int N> struct Ring {
  int at = 0;
  u32 phase = 0;
  __device__ __forceinline__ void next() { if (++at == N) { at = 0; phase ^= 1; } }
};
/** Waits for a buffer to be full, or empty; a new barrier counts as empty. */
template <int N> __device__ __forceinline__ void waitFull(u32 barriers, const Ring<N>& ring) { waitBarrier(barriers + 8 * ring.at, ring.phase); }
template <int N> __device__ __forceinline__ void waitEmpty(u32 barriers, const Ring<N>& ring) { waitBarrier(barriers + 8 * ring.at, ring.phase ^ 1); }
/** Zeros in a warp's 16 rows. */
__device__ __forceinline__ void clearRows(bf16* to, i64 rowStride, int rows, int warp) {
  constexpr int VALUES = ACCESS / 2, UNITS = D / VALUES;
  for (int i = laneNow(); i < 16 * UNITS; i += 32) {
    int row = warp * 16 + i / UNITS;
    if (row < rows) storePack<VALUES>(to + row * rowStride + i % UNITS * VALUES, Pack<bf16, VALUES>{});
  }
}
/** Which tile of which head a piece of work is: sections of heads, in them the tiles, in them the heads. */
struct Work { int tile, head, batch; };
__device__ __forceinline__ Work findWork(int piece, int tiles, int heads, int batches, int section) {
  int pairs = heads * batches, from = piece / (section * tiles), rest = piece - from * section * tiles;
  int width = min(section, pairs - from * section), pair = from * section + rest % width;
  return { rest / width, pair % heads, pair / heads };
}
/** Pieces that were asked for beyond each block's first. */
__device__ u32 asked;
/** The next piece that nobody has; the last block to ask makes the counter ready for the next launch. */
__device__ __forceinline__ int takePiece(int pieces) {
  u32 before = atomicAdd(&asked, 1u);
  if (before == pieces - 1) asked = 0;
  return before + gridDim.x;
}
/** What the copying warp tells the others: a piece (-1: no more), the end of its range of streamed tiles, and their number. */
struct Slot { int piece, end, steps; };
__device__ __forceinline__ void offer(Slot* slots, u32 full, u32 empty, Ring<2>& ring, const Slot& slot) {
  waitEmpty(empty, ring);
  slots[ring.at] = slot;
  arrive(full + 8 * ring.at);
  ring.next();
}
__device__ __forceinline__ Slot accept(const Slot* slots, u32 full, u32 empty, Ring<2>& ring) {
  waitFull(full, ring);
  Slot slot = slots[ring.at];
  __syncwarp();
  if ((threadIdx.x & 31) == 0) arrive(empty + 8 * ring.at);
  ring.next();
  return slot;
}
/** Barriers of a ring of n buffers: full ones, then empty ones. */
__device__ __forceinline__ void initRing(u32 barriers, int n) { for (int i = 0; i < n; i++) { barrierInit(barriers + 8 * i, 1); barrierInit(barriers + 8 * (n + i), GROUPS * 4); } }
`}`;
};

/** For the kernels that own queries. */
export const keyTiles = /* cuda */ `
/** Key tiles that some query of a tile sees: steps of them, down from the one before end. */
struct KeyTiles { int end, steps; };
__device__ __forceinline__ KeyTiles keyTiles(const int* begins, int first, int length) {
  int lowest = SEES_NOTHING;
  for (int i = threadIdx.x & 31; i < ROWS; i += 32) if (first + i < length) lowest = min(lowest, begins[first + i]);
  lowest = __reduce_min_sync(0xffffffffu, lowest);
  int end = (min(first + ROWS, length) + STREAMED - 1) / STREAMED;
  return { end, lowest == SEES_NOTHING ? 0 : end - lowest / STREAMED };
}
`;

/** What the copying warp of a kernel that owns queries does. @param copyOwn announces and copies the own tiles of `work` into the buffer `own` */
export const copyKeyTiles = (copyOwn: string): string => /* cuda */ `for (int piece = blockIdx.x; threadIdx.x < 32;) {
      // The longest tiles first: with causal masking the last queries have the most keys.
      Work work = findWork(min(piece, pieces - 1), count, heads, batches, section);
      int first = (count - 1 - work.tile) * ROWS, kvHead = work.head / (heads / kvHeads), next = 0;
      KeyTiles range = keyTiles(bounds + (i64)work.batch * length, first, length);
      if (piece >= pieces) range.steps = 0;
      if (lane == 0) {
        offer(slots, fullS, emptyS, slot, { piece < pieces ? piece : -1, range.end, range.steps });
        if (piece < pieces) next = takePiece(pieces);
        #pragma unroll 1
        for (int i = 1; i <= range.steps; i++) {
          int row = (range.end - i) * BN;
          waitEmpty(emptyK, ring);
          expectBytes(fullK + 8 * ring.at, copiedBytes(BN));
          copyTile(sK + ring.at * sharedBytes(BN), BN, &kWhole, &kLast, fullK + 8 * ring.at, kvHead, row, work.batch);
          if (i == 1) { // the queries' buffer is the last to become free
            waitEmpty(emptyQ, own);${copyOwn}
            own.next();
          }
          waitEmpty(emptyV, ring);
          expectBytes(fullV + 8 * ring.at, copiedBytes(BN));
          copyTile(sV + ring.at * sharedBytes(BN), BN, &vWhole, &vLast, fullV + 8 * ring.at, kvHead, row, work.batch);
          ring.next();
        }
      }
      if (piece >= pieces) break;
      piece = __shfl_sync(0xffffffffu, next, 0);
    }`;

/** In a kernel that owns queries, after its tiles have got their places (`sQ` first): the barriers of all rings, and where the two that both kinds of warps go around are. */
export const queryRings = /* cuda */ `  unsigned char* tiles = raw + (sQ - sharedAddress(raw));
  u32 fullS = sharedAddress(barriers), emptyS = fullS + 16, fullQ = emptyS + 16, emptyQ = fullQ + 8 * OWN, fullK = emptyQ + 8 * OWN, emptyK = fullK + 8 * STAGES, fullV = emptyK + 8 * STAGES, emptyV = fullV + 8 * STAGES;
  int group = threadIdx.x >> 7, lane = threadIdx.x & 31, count = (length + ROWS - 1) / ROWS, pieces = count * heads * batches;
  if (threadIdx.x == 0) {
    initRing(fullS, 2); initRing(fullQ, OWN); initRing(fullK, STAGES); initRing(fullV, STAGES);
    fenceBarriers();
  }
  __syncthreads();
  Ring<OWN> own;
  Ring<2> slot;
`;
