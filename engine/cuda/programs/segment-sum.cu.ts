/* Sums rows that share an index; a block owns an output row and visits the indices in order, so the sum has one order. Bound by reading the indices once for each output row. */
import { formatType, type CudaProgram, type Format } from '../program.js';

/** out[segment] = Σ in[i] over indices[i] == segment. Args: out, in, indices, count, columns. */
export const segmentSumProgram = (from: Format, to: Format, segments: number): CudaProgram => ({
  key: `segment_sum_${from}_${to}`,
  entry: 'segment_sum',
  grid: [segments, 1, 1],
  block: [256, 1, 1],
  source: () => /* cuda */ `
typedef ${from === 'i32' ? 'int' : 'float'} Value;
extern "C" __global__ void segment_sum(${formatType[to]}* out, const ${formatType[from]}* in, const int* indices, i64 count, i64 columns) {
  __shared__ int rows[256]; __shared__ int warpCounts[8];
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  i64 chunks = (columns + 255) / 256;
  for (i64 chunk = 0; chunk < chunks; chunk++) {
    i64 column = chunk * 256 + threadIdx.x;
    Value sum = 0;
    for (i64 start = 0; start < count; start += 256) {
      i64 i = start + threadIdx.x;
      bool own = i < count && indices[i] == (int)blockIdx.x;
      u32 votes = __ballot_sync(0xffffffffu, own);
      if (lane == 0) warpCounts[warp] = __popc(votes);
      __syncthreads();
      int before = 0, found = 0;
      for (int w = 0; w < 8; w++) { if (w < warp) before += warpCounts[w]; found += warpCounts[w]; }
      if (own) rows[before + __popc(votes & ((1u << lane) - 1u))] = (int)threadIdx.x;
      __syncthreads();
      if (column < columns) for (int j = 0; j < found; j++) sum += ${from === 'i32' ? 'in[(start + rows[j]) * columns + column]' : 'toFloat(in[(start + rows[j]) * columns + column])'};
      __syncthreads();
    }
    if (column < columns) out[blockIdx.x * columns + column] = ${to === 'i32' ? '(int)sum' : `Store<${formatType[to]}>::of((float)sum)`};
  }
}`,
});
