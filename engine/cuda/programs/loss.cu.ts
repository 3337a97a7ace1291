/* Cross-entropy of rows of logits and its gradient; a block a row, read twice (the second time mostly from L2). Bound by memory bandwidth. */
import type { CudaProgram } from '../program.js';

/**
 * losses[row] = log Σ exp(logits) - logits[label] and, where wanted, gradient = softmax - one-hot in bf16; zeros for a row with a
 * negative label, NaN for a label beyond the columns. Args: losses, gradient (null: not wanted), logits, labels, columns.
 */
export const crossEntropyProgram = (rows: number): CudaProgram => ({
  key: 'cross_entropy',
  entry: 'cross_entropy',
  grid: [rows, 1, 1],
  block: [512, 1, 1],
  source: () => /* cuda */ `
extern "C" __global__ void __launch_bounds__(512) cross_entropy(float* losses, bf16* gradient, const float* logits, const int* labels, int columns) {
  const float* x = logits + (i64)blockIdx.x * columns;
  bf16* g = gradient + (i64)blockIdx.x * columns;
  int label = labels[blockIdx.x], vectors = columns % 4 == 0 ? columns / 4 : 0;
  if (label < 0) {
    if (threadIdx.x == 0) losses[blockIdx.x] = 0.f;
    if (!gradient) return;
    Pack<bf16, 4> zeros = {};
    for (int i = threadIdx.x; i < vectors; i += 512) storePack(g + 4 * i, zeros);
    for (int i = 4 * vectors + threadIdx.x; i < columns; i += 512) g[i] = bf16{ 0 };
    return;
  }
  float high = -INFINITY_F, sum = 0.f;
  auto take = [&](float v) { float h = fmaxf(high, v); if (h > high) { sum *= __expf(high - h); high = h; } sum += __expf(v - high); };
  for (int i = threadIdx.x; i < vectors; i += 512) { Pack<float, 4> v = loadPack<4>(x + 4 * i); for (int j = 0; j < 4; j++) take(v.v[j]); }
  for (int i = 4 * vectors + threadIdx.x; i < columns; i += 512) take(x[i]);
  float top = blockMax(high);
  sum = blockSum(high == -INFINITY_F ? 0.f : sum * __expf(high - top));
  if (threadIdx.x == 0) losses[blockIdx.x] = label < columns ? logf(sum) + top - x[label] : __int_as_float(0x7fc00000);
  if (!gradient) return;
  float inverse = 1.f / sum;
  for (int i = threadIdx.x; i < vectors; i += 512) {
    Pack<float, 4> v = loadPack<4>(x + 4 * i); Pack<bf16, 4> out;
    #pragma unroll
    for (int j = 0; j < 4; j++) out.v[j] = toBf16(__expf(v.v[j] - top) * inverse - (4 * i + j == label ? 1.f : 0.f));
    storePack(g + 4 * i, out);
  }
  for (int i = 4 * vectors + threadIdx.x; i < columns; i += 512) g[i] = toBf16(__expf(x[i] - top) * inverse - (i == label ? 1.f : 0.f));
}`,
});
