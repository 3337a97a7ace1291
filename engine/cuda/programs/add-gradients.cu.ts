/*
 * Adds the gradients of many tensors to their sums, or replaces them. Tensors are cut into chunks; a table names each chunk's
 * places and length. Bound by memory bandwidth: two or three floats a value.
 */
import type { CudaProgram } from '../program.js';

/** Values of a chunk at most. */
export const SUM_CHUNK_VALUES = 4096;
/** Bytes of a table entry: sum's address, gradient's address, count; 8 bytes each. */
export const SUM_ENTRY_BYTES = 24;

/** Args: the table. */
export const addGradientsProgram = (chunks: number, first: boolean): CudaProgram => ({
  key: `add_gradients_${first ? 'first' : 'more'}`,
  entry: 'add_gradients',
  grid: [chunks, 1, 1],
  block: [256, 1, 1],
  source: () => /* cuda */ `
struct Chunk { float* sum; const float* gradient; i64 count; };
extern "C" __global__ void add_gradients(const Chunk* chunks) {
  Chunk chunk = chunks[blockIdx.x];
  // Every tensor begins at a multiple of 512 bytes, every chunk at a multiple of 16 KiB of it.
  int vectors = (int)chunk.count / 4;
  for (int i = threadIdx.x; i < vectors; i += 256) {
    Pack<float, 4> g = loadPack<4>(chunk.gradient + 4 * i);
    ${first ? '' : 'Pack<float, 4> s = loadPack<4>((const float*)chunk.sum + 4 * i); for (int j = 0; j < 4; j++) g.v[j] += s.v[j];'}
    storePack(chunk.sum + 4 * i, g);
  }
  for (int i = 4 * vectors + threadIdx.x; i < chunk.count; i += 256) chunk.sum[i] = ${first ? '' : 'chunk.sum[i] + '}chunk.gradient[i];
}`,
});
