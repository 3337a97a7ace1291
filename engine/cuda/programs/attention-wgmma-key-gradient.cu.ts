/*
 * The gradients to attention's keys and values on Hopper. A block owns 64 keys and values a computing warpgroup; tiles of queries, with
 * their output's gradient, stream past them, for all query heads of the key head. The products are taken with keys as rows, so
 * that weights and their gradients come out as the operand in registers of the two sums: four products a tile.
 * Bound by the tensor pipe (58%, ncu) and by its operands in shared memory: with so few streamed columns both take nearly all of its
 * bandwidth, and the accumulators leave no registers for more. H100 80GB HBM3, 4 x 2048 tokens, TFLOP/s of what the mask leaves, four
 * products: 32 heads of 100: 400 to 430 (portable 155); 32/8 heads of 128: 488. Tiles of 64 gave 388 where 80 gave 414, of 48 363.
 */
import { ceilDiv, type CudaProgram } from '../program.js';
import { rotationCommon, rotationKey } from './attention-rotation.cu.js';
import type { AttentionShape } from './attention-shape.js';
import { outputColumns, tilesKey, wgmmaBlock, wgmmaCommon, wgmmaGrid, wgmmaSharedBytes, type WgmmaTiles } from './attention-wgmma.cu.js';

/** What fits the registers. */
export const keyGradientTiles = (headSize: number): WgmmaTiles =>
  ({ groups: 2, ...(headSize > 112 ? { streamed: 48, stages: 3 } : headSize > 104 ? { streamed: 64, stages: 3 } : { streamed: 80, stages: 2 }), buffers: 2, turns: true });

/**
 * dk and dv [B,T,Hkv,D].
 * Args: maps of q (whole, last), dOut, k, v; dk, dv, logSum, delta, bounds, cos, sin (of shapes that are rotated), length, stateLength, heads,
 * kvHeads, batches, section, dk's and dv's stride (from position to position), scale.
 */
export const attentionWgmmaKeyGradientProgram = (
  { batch, length, kvHeads, headSize, rotated }: AttentionShape, multiprocessors: number, tiles = keyGradientTiles(headSize),
): CudaProgram => ({
  key: `attention_wgmma_dkv_${headSize}_${tilesKey(tiles)}${rotationKey(rotated)}`,
  entry: 'attention_wgmma_dkv',
  grid: wgmmaGrid(ceilDiv(length, tiles.groups * 64) * kvHeads * batch, multiprocessors),
  block: wgmmaBlock(tiles),
  sharedBytes: wgmmaSharedBytes(headSize, tiles, 2, 2),
  architecture: 'sm_90a',
  source: () => wgmmaCommon(headSize, tiles, [tiles.streamed, outputColumns(headSize, tiles.sectors)]) + (rotated ? rotationCommon(headSize) : '') + /* cuda */ `
constexpr int BQ = STREAMED;
/** Query tiles from first on, of each head, that see some key of a tile. */
__device__ __forceinline__ int lastQuery(const int* ends, int first, int length) {
  int highest = -1;
  for (int i = threadIdx.x & 31; i < ROWS; i += 32) if (first + i < length) highest = max(highest, ends[first + i]);
  return __reduce_max_sync(0xffffffffu, highest);
}
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_wgmma_dkv(
    const __grid_constant__ TensorMap qWhole, const __grid_constant__ TensorMap qLast, const __grid_constant__ TensorMap oWhole,
    const __grid_constant__ TensorMap oLast, const __grid_constant__ TensorMap kWhole, const __grid_constant__ TensorMap kLast,
    const __grid_constant__ TensorMap vWhole, const __grid_constant__ TensorMap vLast, bf16* dk, bf16* dv,
    const float* logSum, const float* delta, const int* bounds, const float* cosines, const float* sines, int length, int stateLength, int heads, int kvHeads, int batches, int section, int outStride, float scale) {
  extern __shared__ unsigned char raw[];
  __shared__ __align__(8) u64 barriers[4 + 2 * OWN + 4 * STAGES];
  __shared__ Slot slots[2];
  __shared__ __align__(16) float logs[STAGES * BQ], deltas[STAGES * BQ];
  u32 sK = (sharedAddress(raw) + 1023) & ~1023u, sV = sK + OWN * sharedBytes(ROWS), sQ = sV + OWN * sharedBytes(ROWS), sO = sQ + STAGES * sharedBytes(BQ);
  unsigned char* tiles = raw + (sK - sharedAddress(raw));
  u32 fullS = sharedAddress(barriers), emptyS = fullS + 16, fullK = emptyS + 16, emptyK = fullK + 8 * OWN, fullQ = emptyK + 8 * OWN, emptyQ = fullQ + 8 * STAGES, fullO = emptyQ + 8 * STAGES, emptyO = fullO + 8 * STAGES;
  int group = threadIdx.x >> 7, lane = threadIdx.x & 31, count = (length + ROWS - 1) / ROWS, pieces = count * kvHeads * batches, headsEach = heads / kvHeads;
  if (threadIdx.x == 0) {
    initRing(fullS, 2); initRing(fullK, OWN); initRing(fullQ, STAGES); initRing(fullO, STAGES);
    fenceBarriers();
  }
  __syncthreads();
  Ring<OWN> own;
  Ring<2> slot;
  Ring<STAGES> ring;

  if (group == 0) {
    fewerRegisters<COPY_REGISTERS>();
    for (int piece = blockIdx.x; threadIdx.x < 32;) {
      // The longest tiles first: with causal masking the first keys have the most queries.
      Work work = findWork(min(piece, pieces - 1), count, kvHeads, batches, section);
      int first = work.tile * ROWS, highest = lastQuery(bounds + ((i64)batches + work.batch) * length, first, length), next = 0;
      int perHead = piece >= pieces || highest < first ? 0 : (highest - first) / BQ + 1, head = work.head * headsEach, row = first;
      if (lane == 0) {
        offer(slots, fullS, emptyS, slot, { piece < pieces ? piece : -1, highest, perHead * headsEach });
        if (piece < pieces) next = takePiece(pieces);
        #pragma unroll 1
        for (int i = 0; i < perHead * headsEach; i++) {
          i64 at = ((i64)work.batch * heads + head) * stateLength + row;
          waitEmpty(emptyQ, ring);
          expectBytes(fullQ + 8 * ring.at, copiedBytes(BQ) + BQ * 4);
          copyTile(sQ + ring.at * sharedBytes(BQ), BQ, &qWhole, &qLast, fullQ + 8 * ring.at, head, row, work.batch);
          copyBytes(sharedAddress(logs + ring.at * BQ), logSum + at, BQ * 4, fullQ + 8 * ring.at);
          if (i == 0) { // the keys' buffer is the last to become free
            waitEmpty(emptyK, own);
            expectBytes(fullK + 8 * own.at, 2 * copiedBytes(ROWS));
            for (int j = 0; j < GROUPS; j++) {
              u32 to = own.at * sharedBytes(ROWS) + j * sharedBytes(64);
              copyTile(sK + to, 64, &kWhole, &kLast, fullK + 8 * own.at, work.head, first + j * 64, work.batch);
              copyTile(sV + to, 64, &vWhole, &vLast, fullK + 8 * own.at, work.head, first + j * 64, work.batch);
            }
            own.next();
          }
          waitEmpty(emptyO, ring);
          expectBytes(fullO + 8 * ring.at, copiedBytes(BQ) + BQ * 4);
          copyTile(sO + ring.at * sharedBytes(BQ), BQ, &oWhole, &oLast, fullO + 8 * ring.at, head, row, work.batch);
          copyBytes(sharedAddress(deltas + ring.at * BQ), delta + at, BQ * 4, fullO + 8 * ring.at);
          ring.next();
          row += BQ;
          if (row > highest) { row = first; head++; }
        }
      }
      if (piece >= pieces) break;
      piece = __shfl_sync(0xffffffffu, next, 0);
    }
  } else {
    moreRegisters<COMPUTE_REGISTERS>();
    int thread = threadIdx.x & 127, warp = thread >> 5, g = lane >> 2, t = lane & 3;
    float scaleLog2 = scale * LOG2E;
    beginTurns(group);
    for (;;) {
      Slot range = accept(slots, fullS, emptyS, slot);
      if (range.piece < 0) break;
      Work work = findWork(range.piece, count, kvHeads, batches, section);
      int first = work.tile * ROWS, groupRow = first + (group - 1) * 64, warpRow = groupRow + warp * 16;
      const int* ends = bounds + ((i64)batches + work.batch) * length;
      i64 at = ((i64)work.batch * length + groupRow) * outStride + work.head * D, rowStride = outStride;
      if (range.steps == 0) {
        clearRows(dk + at, rowStride, length - groupRow, warp);
        clearRows(dv + at, rowStride, length - groupRow, warp);
        continue;
      }
      float dK[DN / 2], dV[DN / 2], s[BQ / 2], p[BQ / 2]; // free for the angles at the end
      u32 a[BQ / 4], b[BQ / 4];
      int key[2], lowest = SEES_NOTHING;
      u32 seen[2]; // queries that see a key: key … key + seen - 1
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        key[h] = warpRow + g + 8 * h;
        int end = key[h] < length ? ends[key[h]] : -1;
        seen[h] = end < key[h] ? 0 : end - key[h] + 1;
        lowest = min(lowest, end);
      }
      lowest = __reduce_min_sync(0xffffffffu, lowest);
      #pragma unroll
      for (int i = 0; i < DN / 2; i++) { dK[i] = 0.f; dV[i] = 0.f; }
      #pragma unroll
      for (int i = 0; i < BQ / 2; i++) s[i] = p[i] = 0.f; // so that nothing of the piece before is kept in them

      int shift = shiftOf(work.head);
      u32 tileAt = own.at * sharedBytes(ROWS) + (group - 1) * sharedBytes(64);
      unsigned char* kTile = tiles + tileAt;
      unsigned char* vTile = kTile + OWN * sharedBytes(ROWS);
      waitFull(fullK, own);
      if (D < DP) { clearPadding(kTile, shift, thread); clearPadding(vTile, shift, thread); fenceAsync(); syncGroup(group, 128); }
      u64 k = alongRows(sK + tileAt), v = alongRows(sV + tileAt);
      int start = first, before = 0;
      for (int i = 0; i < range.steps; i++) {
        waitFull(fullQ, ring);
        awaitTurn(group);
        pin(s);
        fenceProducts();
        scoreProduct(s, k, alongRows(sQ + ring.at * sharedBytes(BQ)));
        commitProducts();
        __syncwarp(); // all lanes have read the log-sums and row products
        waitProducts<1>(); // the sums of the tile before
        if (i > 0 && lane == 0) { arrive(emptyQ + 8 * before); arrive(emptyO + 8 * before); }
        waitFull(fullO, ring);
        pin(p);
        fenceProducts();
        scoreProduct(p, v, alongRows(sO + ring.at * sharedBytes(BQ)));
        commitProducts();
        passTurn(group);
        waitProducts<1>();
        pin(s);
        const float2* log = (const float2*)(logs + ring.at * BQ + 2 * t); // of columns 8j + 2t and the next: log[4 * j]
        #pragma unroll
        for (int j = 0; j < BQ / 2; j += 4) {
          float2 x = log[j];
          #pragma unroll
          for (int e = 0; e < 4; e++) s[j + e] = exp2Fast(s[j + e] * scaleLog2 - (e & 1 ? x.y : x.x));
        }
        bool masked = start < warpRow + 15 || start + BQ - 1 > lowest; // some query does not see some key of the warp
        if (masked) {
          #pragma unroll
          for (int j = 0; j < BQ / 2; j++) {
            int h = j >> 1 & 1, query = start + (j >> 2) * 8 + 2 * t + (j & 1);
            if ((u32)(query - key[h]) >= seen[h]) s[j] = 0.f;
          }
        }
        waitProducts<0>();
        pin(p);
        const float2* row = (const float2*)(deltas + ring.at * BQ + 2 * t);
        #pragma unroll
        for (int j = 0; j < BQ / 2; j += 4) {
          float2 x = row[j];
          #pragma unroll
          for (int e = 0; e < 4; e++) p[j + e] = s[j + e] * (p[j + e] - (e & 1 ? x.y : x.x));
        }
        if (masked) { // what lies beyond the last query is no number
          #pragma unroll
          for (int j = 0; j < BQ / 2; j++) if (s[j] == 0.f) p[j] = 0.f;
        }
        packRows(a, s);
        packRows(b, p);
        pin(dV); pin(dK);
        fenceProducts();
        sumProduct(dV, a, downRows<BQ>(sO + ring.at * sharedBytes(BQ)));
        sumProduct(dK, b, downRows<BQ>(sQ + ring.at * sharedBytes(BQ)));
        commitProducts();
        before = ring.at;
        ring.next();
        start += BQ;
        if (start > range.end) start = first;
      }
      waitProducts<0>();
      pin(dK); pin(dV);
      __syncwarp();
      if (lane == 0) { arrive(emptyQ + 8 * before); arrive(emptyO + 8 * before); }
      syncGroup(group, 128); // nobody reads the keys and values any more
      float scales[2] = { scale, scale }, ones[2] = { 1.f, 1.f };
      ${rotated
        ? `Angles angles;
      i64 angle = ((i64)work.batch * length + warpRow) * HALF;
      loadAngles(angles, cosines + angle, sines + angle, length - warpRow);
      placeRows(kTile, dK, scales, warp);
      storeRows(dv + at, rowStride, length - groupRow, vTile, dV, ones, shift, warp);
      storeTurnedBack(dk + at + warp * 16 * rowStride, outStride, length - warpRow, angles, [&](int row, int column) { return inTile(kTile, warp * 16 + row, column + shift); });`
        : `storeRows(dk + at, rowStride, length - groupRow, kTile, dK, scales, shift, warp);
      storeRows(dv + at, rowStride, length - groupRow, vTile, dV, ones, shift, warp);`}
      fenceAsync();
      __syncwarp();
      if (lane == 0) arrive(emptyK + 8 * own.at);
      own.next();
    }
  }
}`,
});
