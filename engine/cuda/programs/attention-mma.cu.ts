/*
 * What the portable attention kernels have in common: bf16 tiles in shared memory, fetched by cp.async, multiplied through mma.sync. A warp
 * has 16 rows of a tile; its accumulators are the a operand of the next product without leaving the registers.
 */
import { SEES_NOTHING } from './attention-bounds.cu.js';
import { accessBytes, paddedHeadSize } from './attention-shape.js';

export const WARPS = 4;
/** Rows of a block's own tile: 16 a warp. */
export const OWN_ROWS = 16 * WARPS;

/** Shared memory that a block may have on every card since the A100: 99 KiB (compute capability 8.6, 8.9 and 12.0). */
export const SHARED_LIMIT = 99 << 10;

/** Elements from one row of a shared tile to the next: 16 bytes more than a row, so that ldmatrix meets no bank twice. */
export const tileStride = (headSize: number): number => paddedHeadSize(headSize) + 8;

export const mmaCommon = (headSize: number): string => /* cuda */ `
constexpr int D = ${headSize}, DP = ${paddedHeadSize(headSize)}, DS = ${tileStride(headSize)}, COPY = ${accessBytes(headSize)};
constexpr int THREADS = ${WARPS * 32};
#define LOG2E 1.4426950408889634f
#define SEES_NOTHING ${SEES_NOTHING}

/** Rows first … first + ROWS - 1 of one head into a tile; rows from limit on and columns from D on become zeros. */
template <int ROWS> __device__ __forceinline__ void fetch(bf16* tile, const bf16* head, int first, int limit, i64 rowStride) {
  constexpr int CHUNK = COPY / 2, CHUNKS = DP / CHUNK;
  #pragma unroll 4
  for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
    int row = i / CHUNKS, column = i % CHUNKS * CHUNK, source = first + row;
    bool valid = source < limit && column < D;
    copyAsync<COPY>(tile + row * DS + column, valid ? head + source * rowStride + column : head, valid);
  }
}
/** Four tiles that are the a operand for rows row … row + 15, columns 16 step …. */
__device__ __forceinline__ void loadRows(u32 (&a)[4], const bf16* tile, int row, int step) {
  int lane = threadIdx.x & 31;
  loadMatrix4(a, tile + (row + (lane & 15)) * DS + step * 16 + (lane >> 4) * 8);
}
/** The b operand for 16 output columns that are rows of the tile; inner dimension along the row. b[0], b[1]: first 8 columns. */
__device__ __forceinline__ void loadColumns(u32 (&b)[4], const bf16* tile, int row, int step) {
  int lane = threadIdx.x & 31, part = lane >> 3;
  loadMatrix4(b, tile + (row + (part >> 1) * 8 + (lane & 7)) * DS + step * 16 + (part & 1) * 8);
}
/** The b operand for 16 output columns that are columns of the tile; inner dimension down the rows. */
__device__ __forceinline__ void loadColumnsTransposed(u32 (&b)[4], const bf16* tile, int row, int column) {
  int lane = threadIdx.x & 31, part = lane >> 3;
  loadMatrix4Transposed(b, tile + (row + (part & 1) * 8 + (lane & 7)) * DS + column + (part >> 1) * 8);
}
__device__ __forceinline__ float exp2Fast(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
/**
 * s = a · bᵀ and p = c · dᵀ over the head's columns, for a warp's 16 rows (from row on) of the tiles a and c and all COLUMNS rows of b and d:
 * scores and the gradients of their weights, with queries or keys as rows.
 */
template <int COLUMNS> __device__ __forceinline__ void scoreProducts(float (&s)[COLUMNS / 8][4], float (&p)[COLUMNS / 8][4],
    const bf16* a, const bf16* b, const bf16* c, const bf16* d, int row) {
  #pragma unroll
  for (int j = 0; j < COLUMNS / 8; j++) { s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.f; p[j][0] = p[j][1] = p[j][2] = p[j][3] = 0.f; }
  #pragma unroll
  for (int step = 0; step < DP / 16; step++) {
    u32 x[4], y[4];
    loadRows(x, a, row, step);
    loadRows(y, c, row, step);
    #pragma unroll
    for (int j = 0; j < COLUMNS / 16; j++) {
      u32 z[4];
      loadColumns(z, b, j * 16, step);
      mma(s[2 * j], x, z[0], z[1]); mma(s[2 * j + 1], x, z[2], z[3]);
      loadColumns(z, d, j * 16, step);
      mma(p[2 * j], y, z[0], z[1]); mma(p[2 * j + 1], y, z[2], z[3]);
    }
  }
}
/** d += w · b: a warp's 16 rows of accumulators w, as bf16, and a tile of COLUMNS rows. */
template <int COLUMNS> __device__ __forceinline__ void sumProduct(float (&d)[DP / 8][4], const float (&w)[COLUMNS / 8][4], const bf16* b) {
  #pragma unroll
  for (int step = 0; step < COLUMNS / 16; step++) {
    u32 x[4] = { packBf16(w[2 * step][0], w[2 * step][1]), packBf16(w[2 * step][2], w[2 * step][3]),
                 packBf16(w[2 * step + 1][0], w[2 * step + 1][1]), packBf16(w[2 * step + 1][2], w[2 * step + 1][3]) };
    #pragma unroll
    for (int j = 0; j < DP / 16; j++) {
      u32 z[4];
      loadColumnsTransposed(z, b, step * 16, j * 16);
      mma(d[2 * j], x, z[0], z[1]); mma(d[2 * j + 1], x, z[2], z[3]);
    }
  }
}
`;

/** In a kernel that owns BM queries from `first`: tiles of keys that any of them sees, and what each of a thread's two queries sees, to be filled in. */
export const keyRange = /* cuda */ `  i64 kvAt = ((i64)batch * length * kvHeads + head / (heads / kvHeads)) * D;
  const int* begins = bounds + (i64)batch * length;
  int lowest = SEES_NOTHING;
  for (int i = lane; i < BM; i += 32) if (first + i < length) lowest = min(lowest, begins[first + i]);
  lowest = __reduce_min_sync(0xffffffffu, lowest);
  int tileBegin = lowest / BN, tileEnd = lowest == SEES_NOTHING ? 0 : (min(first + BM, length) + BN - 1) / BN;

  int warpRow = first + warp * 16, begin[2];
  u32 seen[2]; // keys that a query sees: begin … begin + seen - 1
`;

/** Asks for a tile of keys and values. */
export const fetchKeys = /* cuda */ `  auto fetchKeys = [&](int keyTile, int buffer) {
    fetch<BN>(sK + buffer * BN * DS, k + kvAt, keyTile * BN, length, kvStride);
    fetch<BN>(sV + buffer * BN * DS, v + kvAt, keyTile * BN, length, kvStride);
    commitCopies();
  };
`;
