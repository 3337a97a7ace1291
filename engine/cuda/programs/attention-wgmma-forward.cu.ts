/*
 * Attention's forward pass on Hopper. A block owns 64 queries a computing warpgroup; tiles of keys and values stream past them. While
 * the tensor cores multiply the weights of one tile with its values, the warpgroup already has the next tile's scores and
 * takes their exponentials (FlashAttention-3, arXiv 2407.08608).
 * Bound by the L2 cache: 77% of its throughput, tensor pipe 47% (ncu), for heads of 100, whose rows straddle cache lines. H100 80GB HBM3,
 * 4 x 2048 tokens, TFLOP/s of what the mask leaves: 32 heads of 100: 305 to 340 (portable 149); 32/8 heads of 128: 485.
 * Tried there: a grid of all tiles dealt out in turn instead of the counter, 336 of 338; two buffers of queries, 327; three stages, 332;
 * tiles of 96 in four stages, 330, of 64 in five, 315; three warpgroups with tiles of 96, 343, but slower on short rows.
 */
import { ceilDiv, type CudaProgram } from '../program.js';
import type { AttentionShape } from './attention-shape.js';
import { copyKeyTiles, keyTiles, outputColumns, queryRings, tilesKey, wgmmaBlock, wgmmaCommon, wgmmaGrid, wgmmaSharedBytes, type WgmmaTiles } from './attention-wgmma.cu.js';

export const forwardTiles = (): WgmmaTiles => ({ groups: 2, streamed: 128, stages: 2, buffers: 1, turns: true });

/**
 * out [B,T,H,D], whose positions may lie apart (zeros between them), and logSum [B,H,stateLength] (base 2, of the scaled scores).
 * Args: maps of q (whole, last), k, v; out, logSum, bounds, length, stateLength, heads, kvHeads, batches, section, out's stride, scale.
 */
export const attentionWgmmaProgram = ({ batch, length, heads, headSize }: AttentionShape, multiprocessors: number, tiles = forwardTiles()): CudaProgram => ({
  key: `attention_wgmma_${headSize}_${tilesKey(tiles)}`,
  entry: 'attention_wgmma',
  grid: wgmmaGrid(ceilDiv(length, tiles.groups * 64) * heads * batch, multiprocessors),
  block: wgmmaBlock(tiles),
  sharedBytes: wgmmaSharedBytes(headSize, tiles, 1, 2),
  architecture: 'sm_90a',
  source: () => wgmmaCommon(headSize, tiles, [tiles.streamed, outputColumns(headSize, tiles.sectors)]) + keyTiles + /* cuda */ `
constexpr int BN = STREAMED;
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_wgmma(
    const __grid_constant__ TensorMap qWhole, const __grid_constant__ TensorMap qLast, const __grid_constant__ TensorMap kWhole,
    const __grid_constant__ TensorMap kLast, const __grid_constant__ TensorMap vWhole, const __grid_constant__ TensorMap vLast,
    bf16* out, float* logSum, const int* bounds, int length, int stateLength, int heads, int kvHeads, int batches, int section, int outStride, float scale) {
  extern __shared__ unsigned char raw[];
  __shared__ __align__(8) u64 barriers[4 + 2 * OWN + 4 * STAGES];
  __shared__ Slot slots[2];
  u32 sQ = (sharedAddress(raw) + 1023) & ~1023u, sK = sQ + OWN * sharedBytes(ROWS), sV = sK + STAGES * sharedBytes(BN);
${queryRings}
  if (group == 0) {
    fewerRegisters<COPY_REGISTERS>();
    Ring<STAGES> ring;
    ${copyKeyTiles(`
            expectBytes(fullQ + 8 * own.at, copiedBytes(ROWS));
            for (int j = 0; j < GROUPS; j++) copyTile(sQ + own.at * sharedBytes(ROWS) + j * sharedBytes(64), 64, &qWhole, &qLast, fullQ + 8 * own.at, work.head, first + j * 64, work.batch);`)}
  } else {
    moreRegisters<COMPUTE_REGISTERS>();
    int thread = threadIdx.x & 127, warp = thread >> 5, g = lane >> 2, t = lane & 3;
    float o[DN / 2], s[BN / 2], top[2], sum[2], correction[2], scaleLog2 = scale * LOG2E;
    u32 p[BN / 4];
    Ring<STAGES> keys, values;
    beginTurns(group);
    for (;;) {
      Slot range = accept(slots, fullS, emptyS, slot);
      if (range.piece < 0) break;
      Work work = findWork(range.piece, count, heads, batches, section);
      int first = (count - 1 - work.tile) * ROWS, groupRow = first + (group - 1) * 64, warpRow = groupRow + warp * 16;
      const int* begins = bounds + (i64)work.batch * length;
      bf16* rows = out + ((i64)work.batch * length + groupRow) * outStride;
      bf16* to = rows + work.head * D;
      float* log = logSum + ((i64)work.batch * heads + work.head) * stateLength;
      if (work.head == 0) clearRoom(rows, heads * D, outStride, length - groupRow, warp);
      if (range.steps == 0) {
        clearRows(to, outStride, length - groupRow, warp);
        if (lane < 16 && warpRow + lane < length) log[warpRow + lane] = INFINITY_F;
        continue;
      }
      int begin[2];
      u32 seen[2]; // keys that a query sees: begin … begin + seen - 1
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        int row = warpRow + g + 8 * h;
        begin[h] = row < length ? begins[row] : SEES_NOTHING;
        seen[h] = begin[h] > row ? 0 : row - begin[h] + 1;
        top[h] = -INFINITY_F; sum[h] = 0.f;
      }
      int highest = __reduce_max_sync(0xffffffffu, max(begin[0], begin[1]));
      #pragma unroll
      for (int i = 0; i < DN / 2; i++) o[i] = 0.f;

      /** Scores to weights, in s. */
      auto softmax = [&](int tile) {
        int start = tile * BN;
        if (start + BN - 1 > warpRow || start < highest) { // some query of the warp does not see some key
          #pragma unroll
          for (int i = 0; i < BN / 2; i++) {
            int h = i >> 1 & 1, key = start + (i >> 2) * 8 + 2 * t + (i & 1);
            if ((u32)(key - begin[h]) >= seen[h]) s[i] = -INFINITY_F;
          }
        }
        #pragma unroll
        for (int h = 0; h < 2; h++) {
          float high = top[h];
          #pragma unroll
          for (int i = 0; i < BN / 2; i += 4) high = fmaxf(high, fmaxf(s[i + 2 * h], s[i + 2 * h + 1]));
          high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
          high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
          float base = high == -INFINITY_F ? 0.f : high * scaleLog2; // a row that has seen no key yet
          correction[h] = exp2Fast(top[h] * scaleLog2 - base);
          top[h] = high;
          float part = 0.f;
          #pragma unroll
          for (int i = 0; i < BN / 2; i += 4) {
            s[i + 2 * h] = exp2Fast(s[i + 2 * h] * scaleLog2 - base);
            s[i + 2 * h + 1] = exp2Fast(s[i + 2 * h + 1] * scaleLog2 - base);
            part += s[i + 2 * h] + s[i + 2 * h + 1];
          }
          sum[h] = sum[h] * correction[h] + part;
        }
      };

      int shift = shiftOf(work.head);
      u32 tileAt = own.at * sharedBytes(ROWS) + (group - 1) * sharedBytes(64);
      waitFull(fullQ, own);
      if (D < DP) { clearPadding(tiles + tileAt, shift, thread); fenceAsync(); syncGroup(group, 128); }
      u64 q = alongRows(sQ + tileAt);
      waitFull(fullK, keys);
      fenceProducts();
      scoreProduct(s, q, alongRows(sK + keys.at * sharedBytes(BN)));
      commitProducts();
      waitProducts<0>();
      pin(s);
      if (lane == 0) arrive(emptyK + 8 * keys.at);
      keys.next();
      softmax(range.end - 1);
      packRows(p, s);
      for (int i = 2; i <= range.steps; i++) {
        waitFull(fullK, keys);
        awaitTurn(group);
        pin(s); pin(o);
        fenceProducts();
        scoreProduct(s, q, alongRows(sK + keys.at * sharedBytes(BN)));
        commitProducts();
        waitFull(fullV, values);
        sumProduct(o, p, downRows<BN>(sV + values.at * sharedBytes(BN)));
        commitProducts();
        passTurn(group);
        waitProducts<1>();
        pin(s);
        if (lane == 0) arrive(emptyK + 8 * keys.at);
        keys.next();
        softmax(range.end - i);
        waitProducts<0>();
        pin(o);
        if (lane == 0) arrive(emptyV + 8 * values.at);
        values.next();
        #pragma unroll
        for (int j = 0; j < DN / 2; j++) o[j] *= correction[j >> 1 & 1];
        packRows(p, s);
      }
      waitFull(fullV, values);
      pin(o);
      fenceProducts();
      sumProduct(o, p, downRows<BN>(sV + values.at * sharedBytes(BN)));
      commitProducts();
      float inverse[2];
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        float total = sum[h];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        inverse[h] = total > 0.f ? 1.f / total : 0.f;
        int row = warpRow + g + 8 * h;
        // A row without keys weighs nothing in the backward pass either: exp2(s - infinity) = 0.
        if (t == 0 && row < length) log[row] = total > 0.f ? top[h] * scaleLog2 + log2f(total) : INFINITY_F;
      }
      waitProducts<0>();
      pin(o);
      if (lane == 0) arrive(emptyV + 8 * values.at);
      values.next();
      syncGroup(group, 128); // nobody reads the queries any more
      storeRows(to, outStride, length - groupRow, tiles + tileAt, o, inverse, shift, warp);
      fenceAsync();
      __syncwarp();
      if (lane == 0) arrive(emptyQ + 8 * own.at);
      own.next();
    }
  }
}`,
});
