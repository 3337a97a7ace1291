/*
 * The gradient to attention's queries on Hopper. A block owns 64 queries a computing warpgroup, with their output's gradient; tiles of
 * keys and values stream past them. Three products a tile: the scores, the gradient of the weights, and the sum into dq, which
 * runs while the next tile's scores are begun. Also makes the row products dOut · out that the kernel for keys needs.
 * Bound by the L2 cache (71% of its throughput) and the tensor pipe (58%, ncu). H100 80GB HBM3, 4 x 2048 tokens, TFLOP/s of what the
 * mask leaves, three products: 32 heads of 100: 370 to 410 (portable 148); 32/8 heads of 128: 560. Tiles of 96 with two stages gave
 * 353 where 128 gave 412, of 80 with two buffers 326, three warpgroups with tiles of 64 319.
 */
import { ceilDiv, type CudaProgram } from '../program.js';
import { rotationCommon, rotationKey } from './attention-rotation.cu.js';
import type { AttentionShape } from './attention-shape.js';
import { copyKeyTiles, keyTiles, outputColumns, queryRings, tilesKey, wgmmaBlock, wgmmaCommon, wgmmaGrid, wgmmaSharedBytes, type WgmmaTiles } from './attention-wgmma.cu.js';

/** What fits the registers. */
export const queryGradientTiles = (headSize: number): WgmmaTiles => ({ groups: 2, streamed: headSize > 104 ? 112 : 128, stages: 2, buffers: 1, turns: true });

/**
 * dq [B,T,H,D] and delta [B,H,stateLength].
 * Args: maps of q (whole, last), dOut, k, v; dq, delta, out, logSum, bounds, cos, sin (of shapes that are rotated), length, stateLength, heads,
 * kvHeads, batches, section, out's stride, dq's stride (both from position to position), scale.
 */
export const attentionWgmmaQueryGradientProgram = (
  { batch, length, heads, headSize, rotated }: AttentionShape, multiprocessors: number, tiles = queryGradientTiles(headSize),
): CudaProgram => ({
  key: `attention_wgmma_dq_${headSize}_${tilesKey(tiles)}${rotationKey(rotated)}`,
  entry: 'attention_wgmma_dq',
  grid: wgmmaGrid(ceilDiv(length, tiles.groups * 64) * heads * batch, multiprocessors),
  block: wgmmaBlock(tiles),
  sharedBytes: wgmmaSharedBytes(headSize, tiles, 2, 2),
  architecture: 'sm_90a',
  source: () => wgmmaCommon(headSize, tiles, [tiles.streamed, outputColumns(headSize, tiles.sectors)]) + keyTiles + (rotated ? rotationCommon(headSize) : '') + /* cuda */ `
constexpr int BN = STREAMED;
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_wgmma_dq(
    const __grid_constant__ TensorMap qWhole, const __grid_constant__ TensorMap qLast, const __grid_constant__ TensorMap oWhole,
    const __grid_constant__ TensorMap oLast, const __grid_constant__ TensorMap kWhole, const __grid_constant__ TensorMap kLast,
    const __grid_constant__ TensorMap vWhole, const __grid_constant__ TensorMap vLast, bf16* dq, float* delta, const bf16* out,
    const float* logSum, const int* bounds, const float* cosines, const float* sines, int length, int stateLength, int heads, int kvHeads, int batches, int section,
    int outStride, int gradientStride, float scale) {
  extern __shared__ unsigned char raw[];
  __shared__ __align__(8) u64 barriers[4 + 2 * OWN + 4 * STAGES];
  __shared__ Slot slots[2];
  u32 sQ = (sharedAddress(raw) + 1023) & ~1023u, sO = sQ + OWN * sharedBytes(ROWS), sK = sO + OWN * sharedBytes(ROWS), sV = sK + STAGES * sharedBytes(BN);
${queryRings}  Ring<STAGES> ring;

  if (group == 0) {
    fewerRegisters<COPY_REGISTERS>();
    ${copyKeyTiles(`
            expectBytes(fullQ + 8 * own.at, 2 * copiedBytes(ROWS));
            for (int j = 0; j < GROUPS; j++) {
              u32 at = own.at * sharedBytes(ROWS) + j * sharedBytes(64);
              copyTile(sQ + at, 64, &qWhole, &qLast, fullQ + 8 * own.at, work.head, first + j * 64, work.batch);
              copyTile(sO + at, 64, &oWhole, &oLast, fullQ + 8 * own.at, work.head, first + j * 64, work.batch);
            }`)}
  } else {
    moreRegisters<COMPUTE_REGISTERS>();
    int thread = threadIdx.x & 127, warp = thread >> 5, g = lane >> 2, t = lane & 3;
    float scaleLog2 = scale * LOG2E;
    beginTurns(group);
    for (;;) {
      Slot range = accept(slots, fullS, emptyS, slot);
      if (range.piece < 0) break;
      Work work = findWork(range.piece, count, heads, batches, section);
      int first = (count - 1 - work.tile) * ROWS, groupRow = first + (group - 1) * 64, warpRow = groupRow + warp * 16;
      const int* begins = bounds + (i64)work.batch * length;
      i64 at = ((i64)work.batch * length + groupRow) * gradientStride + work.head * D, stateAt = ((i64)work.batch * heads + work.head) * stateLength;
      if (range.steps == 0) {
        clearRows(dq + at, gradientStride, length - groupRow, warp);
        if (lane < 16 && warpRow + lane < length) delta[stateAt + warpRow + lane] = 0.f;
        continue;
      }
      float d[DN / 2], s[BN / 2], p[BN / 2]; // free for the angles at the end
      u32 a[BN / 4];
      int begin[2];
      u32 seen[2]; // keys that a query sees: begin … begin + seen - 1
      float rowLog[2], rowDelta[2] = { 0.f, 0.f };
      // The output's rows are fetched while the copies are on their way; four lanes have a row.
      constexpr int VALUES = ACCESS / 2, UNITS = D / VALUES, EACH = (UNITS + 3) / 4;
      Pack<bf16, VALUES> y[2][EACH];
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        int row = warpRow + g + 8 * h;
        begin[h] = row < length ? begins[row] : SEES_NOTHING;
        seen[h] = begin[h] > row ? 0 : row - begin[h] + 1;
        rowLog[h] = row < length ? logSum[stateAt + row] : INFINITY_F;
        #pragma unroll
        for (int i = 0; i < EACH; i++)
          if (row < length && i * 4 + t < UNITS) y[h][i] = loadPack<VALUES>(out + ((i64)work.batch * length + row) * outStride + work.head * D + (i * 4 + t) * VALUES);
      }
      int highest = __reduce_max_sync(0xffffffffu, max(begin[0], begin[1]));
      #pragma unroll
      for (int i = 0; i < DN / 2; i++) d[i] = 0.f;
      #pragma unroll
      for (int i = 0; i < BN / 2; i++) s[i] = p[i] = 0.f; // so that nothing of the piece before is kept in them

      int shift = shiftOf(work.head);
      u32 tileAt = own.at * sharedBytes(ROWS) + (group - 1) * sharedBytes(64);
      unsigned char* qTile = tiles + tileAt;
      unsigned char* oTile = qTile + OWN * sharedBytes(ROWS);
      waitFull(fullQ, own);
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        int row = warpRow + g + 8 * h;
        #pragma unroll
        for (int i = 0; i < EACH; i++) {
          int column = (i * 4 + t) * VALUES + shift;
          if (row < length && i * 4 + t < UNITS) {
            Pack<bf16, VALUES> x = loadPack<VALUES>((const bf16*)(oTile + (column >> 6) * 64 * 128 + swizzled(row - groupRow, (column & 63) * 2)));
            #pragma unroll
            for (int j = 0; j < VALUES; j++) rowDelta[h] += toFloat(x.v[j]) * toFloat(y[h][i].v[j]);
          }
        }
        rowDelta[h] += __shfl_xor_sync(0xffffffffu, rowDelta[h], 1);
        rowDelta[h] += __shfl_xor_sync(0xffffffffu, rowDelta[h], 2);
        if (t == 0 && row < length) delta[stateAt + row] = rowDelta[h];
      }
      if (D < DP) { clearPadding(qTile, shift, thread); clearPadding(oTile, shift, thread); fenceAsync(); syncGroup(group, 128); }
      u64 q = alongRows(sQ + tileAt), o = alongRows(sO + tileAt);
      int before = 0;
      for (int i = 1; i <= range.steps; i++) {
        waitFull(fullK, ring);
        awaitTurn(group);
        pin(s);
        fenceProducts();
        scoreProduct(s, q, alongRows(sK + ring.at * sharedBytes(BN)));
        commitProducts();
        waitProducts<1>(); // the sum of the tile before
        if (i > 1 && lane == 0) arrive(emptyK + 8 * before);
        waitFull(fullV, ring);
        pin(p);
        fenceProducts();
        scoreProduct(p, o, alongRows(sV + ring.at * sharedBytes(BN)));
        commitProducts();
        passTurn(group);
        waitProducts<1>();
        pin(s);
        int start = (range.end - i) * BN;
        #pragma unroll
        for (int j = 0; j < BN / 2; j++) s[j] = exp2Fast(s[j] * scaleLog2 - rowLog[j >> 1 & 1]);
        if (start + BN - 1 > warpRow || start < highest) { // some query of the warp does not see some key
          #pragma unroll
          for (int j = 0; j < BN / 2; j++) {
            int h = j >> 1 & 1, key = start + (j >> 2) * 8 + 2 * t + (j & 1);
            if ((u32)(key - begin[h]) >= seen[h]) s[j] = 0.f;
          }
        }
        waitProducts<0>();
        pin(p);
        if (lane == 0) arrive(emptyV + 8 * ring.at);
        #pragma unroll
        for (int j = 0; j < BN / 2; j++) s[j] *= p[j] - rowDelta[j >> 1 & 1];
        packRows(a, s);
        pin(d);
        fenceProducts();
        sumProduct(d, a, downRows<BN>(sK + ring.at * sharedBytes(BN)));
        commitProducts();
        before = ring.at;
        ring.next();
      }
      ${rotated ? `Angles angles;
      i64 angle = ((i64)work.batch * length + warpRow) * HALF;
      loadAngles(angles, cosines + angle, sines + angle, length - warpRow);
      ` : ''}waitProducts<0>();
      pin(d);
      if (lane == 0) arrive(emptyK + 8 * before);
      syncGroup(group, 128); // nobody reads the queries any more
      float scales[2] = { scale, scale };
      ${rotated
        ? `placeRows(qTile, d, scales, warp);
      storeTurnedBack(dq + at + (i64)warp * 16 * gradientStride, gradientStride, length - warpRow, angles, [&](int row, int column) { return inTile(qTile, warp * 16 + row, column + shift); });`
        : 'storeRows(dq + at, gradientStride, length - groupRow, qTile, d, scales, shift, warp);'}
      fenceAsync();
      __syncwarp();
      if (lane == 0) arrive(emptyQ + 8 * own.at);
      own.next();
    }
  }
}`,
});
