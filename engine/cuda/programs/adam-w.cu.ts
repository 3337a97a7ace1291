/*
 * AdamW over all adapter tensors at once. Tensors are cut into chunks; a table names each chunk's parameter, gradient, place
 * in the moments and length, so one launch serves any number of tensors. Bound by memory bandwidth: seven floats a parameter.
 */
import type { CudaProgram } from '../program.js';

/** Values of a chunk at most. */
export const CHUNK_VALUES = 4096;
/**
 * Bytes of a table entry: parameter address, gradient address, offset in the moments, 8 bytes each; count, the learning rate's
 * factor, the decay's factor (0 or 1), and what aligns the next, 4 bytes each.
 */
export const CHUNK_ENTRY_BYTES = 40;

const entry = /* cuda */ `
struct Chunk { float* parameter; const float* gradient; i64 offset; int count; float rate; float decay; int unused; };
`;

/** squares[chunk] = Σ gradient². Args: squares, chunks. */
export const gradientSquaresProgram = (chunks: number): CudaProgram => ({
  key: 'gradient_squares',
  entry: 'gradient_squares',
  grid: [chunks, 1, 1],
  block: [256, 1, 1],
  source: () => entry + /* cuda */ `extern "C" __global__ void gradient_squares(float* squares, const Chunk* chunks) {
  Chunk chunk = chunks[blockIdx.x];
  float sum = 0.f;
  for (int i = threadIdx.x; i < chunk.count; i += 256) sum += chunk.gradient[i] * chunk.gradient[i];
  sum = blockSum(sum);
  if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}`,
});

/** norm = sqrt(Σ squares), in one block so that the order is fixed. Args: norm, squares, chunks. */
export const gradientNormProgram = (): CudaProgram => ({
  key: 'gradient_norm',
  entry: 'gradient_norm',
  grid: [1, 1, 1],
  block: [1024, 1, 1],
  source: () => /* cuda */ `extern "C" __global__ void gradient_norm(float* norm, const float* squares, int chunks) {
  float sum = 0.f;
  for (int i = threadIdx.x; i < chunks; i += 1024) sum += squares[i];
  sum = blockSum(sum);
  if (threadIdx.x == 0) *norm = sqrtf(sum);
}`,
});

/** Args: m, v, norm, chunks, maxNorm (0: no clipping), beta1, beta2, epsilon, stepSize, rootCorrection, decay (learningRate · weightDecay). */
export const adamWProgram = (chunks: number): CudaProgram => ({
  key: 'adam_w',
  entry: 'adam_w',
  grid: [chunks, 1, 1],
  block: [256, 1, 1],
  source: () => entry + /* cuda */ `
extern "C" __global__ void adam_w(float* m, float* v, const float* norm, const Chunk* chunks, float maxNorm, float beta1, float rest1, float beta2, float rest2, float epsilon,
    float stepSize, float rootCorrection, float decay) {
  if (!(fabsf(*norm) < INFINITY_F)) return; // Not a number or infinite: everything stays as it is.
  Chunk chunk = chunks[blockIdx.x];
  float size = stepSize * chunk.rate, keep = 1.f - decay * chunk.rate * chunk.decay;
  float factor = maxNorm > 0.f ? fminf(1.f, maxNorm / (*norm + 1e-6f)) : 1.f;
  for (int i = threadIdx.x; i < chunk.count; i += 256) {
    float g = chunk.gradient[i] * factor;
    i64 at = chunk.offset + i;
    float first = m[at] * beta1 + g * rest1, second = v[at] * beta2 + g * g * rest2;
    m[at] = first; v[at] = second;
    chunk.parameter[i] = chunk.parameter[i] * keep - size * (first / (sqrtf(second) / rootCorrection + epsilon));
  }
}`,
});
