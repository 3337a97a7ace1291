/*
 * Uniform noise: value i comes of the low 23 bits of word i of the key's Philox stream. Four words make one block, so four values
 * a thread. Bound by Philox's integer arithmetic and the bandwidth of one write.
 */
import { ceilDiv, type CudaProgram } from '../program.js';
import { dropoutParameters, readDraw } from './dropout.cu.js';

const THREADS = 256;

/** out = uniform in ±magnitude. Args: out, size, magnitude, then dropoutArguments, of which key and draw count. */
export const uniformNoiseProgram = (size: number): CudaProgram => ({
  key: 'uniform_noise',
  entry: 'uniform_noise',
  grid: [ceilDiv(size, THREADS * 4), 1, 1],
  block: [THREADS, 1, 1],
  source: () => /* cuda */ `
extern "C" __global__ void uniform_noise(float* out, i64 size, float magnitude, ${dropoutParameters}) {
  i64 block = (i64)blockIdx.x * ${THREADS} + threadIdx.x, begin = block << 2;
  if (begin >= size) return;
  ${readDraw}
  u32 words[4];
  philox<10>(words, (u64)block, step, stream, key0, key1);
  for (int i = 0; i < 4; i++) if (begin + i < size) out[begin + i] = (((words[i] & 0x7fffffu) + 0.5f) / 4194304.f - 1.f) * magnitude;
}`,
});
