/*
 * What a position may see, as two numbers: attention's kernels know neither segments nor windows. A query t sees the keys
 * begins[t] … t, a key t is seen by the queries t … ends[t]. Padding (segment 0) sees nothing and is seen by nothing, so that tiles
 * of it are skipped. Found on the device: a recorded graph serves any packing. Once a step; bound by latency.
 */
import type { CudaProgram } from '../program.js';

const THREADS = 256;

/** `begins` of padding: beyond every position. */
export const SEES_NOTHING = 0x7fffffff;

/** begins and ends, int32 [2, B, T], from segments int32 [B, T]. Args: out, segments, length, batch, window (≥ 1). */
export const attentionBoundsProgram = ({ batch }: { batch: number }): CudaProgram => ({
  key: 'attention_bounds',
  entry: 'attention_bounds',
  grid: [batch, 1, 1],
  block: [THREADS, 1, 1],
  source: () => /* cuda */ `extern "C" __global__ void attention_bounds(int* out, const int* segments, int length, int batch, int window) {
  __shared__ int lastStart[${THREADS}], firstStop[${THREADS}];
  const int* row = segments + (i64)blockIdx.x * length;
  int* begins = out + (i64)blockIdx.x * length; int* ends = begins + (i64)batch * length;
  int chunk = (length + ${THREADS - 1}) / ${THREADS}, from = threadIdx.x * chunk, to = min(from + chunk, length);
  auto starts = [&](int t) { return t == 0 || row[t] != row[t - 1]; };
  auto stops = [&](int t) { return t == length - 1 || row[t] != row[t + 1]; };
  int start = -1, stop = -1;
  for (int t = from; t < to; t++) { if (starts(t)) start = t; if (stop < 0 && stops(t)) stop = t; }
  lastStart[threadIdx.x] = start; firstStop[threadIdx.x] = stop;
  __syncthreads();
  start = stop = -1;
  for (int i = (int)threadIdx.x - 1; i >= 0 && start < 0; i--) start = lastStart[i];
  for (int i = threadIdx.x + 1; i < ${THREADS} && stop < 0; i++) stop = firstStop[i];
  for (int t = from; t < to; t++) {
    if (starts(t)) start = t;
    begins[t] = row[t] == 0 ? ${SEES_NOTHING} : max(start, t - window + 1);
  }
  for (int t = to - 1; t >= from; t--) {
    if (stops(t)) stop = t;
    ends[t] = row[t] == 0 ? -1 : (int)min((i64)stop, (i64)t + window - 1);
  }
}`,
});
