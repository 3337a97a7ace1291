/*
 * Dropout without a stored mask: element i is kept when the low 23 bits of word i of the key's Philox stream reach the rate.
 * Bound by memory bandwidth and, close behind, by Philox's integer arithmetic. Four words make one block, so four values a thread.
 */
import { ceilDiv, formatType, type CudaProgram, type Format, type KernelArgument } from '../program.js';

const THREADS = 256;

/**
 * What every kernel that draws a mask takes last. `draw` is null, or points to two words that a recorded graph is given anew
 * for each replay: the step, and what is to be added to the stream.
 */
export const dropoutParameters = 'u32 threshold, float kept, u32 step, u32 stream, u32 key0, u32 key1, const u32* draw';
export const readDraw = 'if (draw) { step = draw[0]; stream += draw[1]; }';

/** @param drawCell address of the recording's two words; 0 outside of one */
export function dropoutArguments(drawCell: number, dropout: { rate: number; key: { seed: number; step: number; stream: number } } | undefined): KernelArgument[] {
  const { rate, key } = dropout ?? { rate: 0, key: { seed: 0, step: 0, stream: 0 } };
  return [
    { u32: Math.ceil(Math.fround(rate) * 2 ** 23) },
    { f32: 1 / (1 - rate) },
    { u32: key.step >>> 0 },
    { u32: key.stream >>> 0 },
    { u32: key.seed >>> 0 },
    { u32: Math.floor(key.seed / 2 ** 32) >>> 0 },
    { pointer: drawCell },
  ];
}

const frame = (entry: string, parameters: string, body: string) => /* cuda */ `
extern "C" __global__ void ${entry}(${parameters}, i64 size, i64 first, ${dropoutParameters}) {
  // Thread i owns the words of Philox block i, counted from the block that holds element first.
  i64 block = (i64)blockIdx.x * ${THREADS} + threadIdx.x + (first >> 2);
  i64 begin = (block << 2) - first;
  if (begin >= size) return;
  ${readDraw}
  u32 words[4];
  philox(words, (u64)block, step, stream, key0, key1);
  float mask[4];
  #pragma unroll
  for (int i = 0; i < 4; i++) mask[i] = (words[i] & 0x7fffffu) >= threshold ? kept : 0.f;
  ${body}
}`;

const launchShape = (size: number) => ({ grid: [ceilDiv(size + 3, THREADS * 4), 1, 1] as const, block: [THREADS, 1, 1] as const });

/** out = mask · in. Args: out, in (null: ones), size, first, then dropoutArguments. `first` is the stream's word for element 0. */
export const dropoutProgram = (from: Format, to: Format, size: number): CudaProgram => ({
  key: `dropout_${from}_${to}`,
  entry: 'dropout',
  ...launchShape(size),
  source: () => frame('dropout', `${formatType[to]}* out, const ${formatType[from]}* in`, /* cuda */ `
  if (in && (first & 3) == 0 && begin + 4 <= size) {
    Pack<${formatType[from]}, 4> x = loadPack<4>(in + begin); Pack<${formatType[to]}, 4> y;
    #pragma unroll
    for (int i = 0; i < 4; i++) y.v[i] = Store<${formatType[to]}>::of(mask[i] * toFloat(x.v[i]));
    storePack(out + begin, y);
  } else for (int i = 0; i < 4; i++) if (begin + i >= 0 && begin + i < size) out[begin + i] = Store<${formatType[to]}>::of(mask[i] * (in ? toFloat(in[begin + i]) : 1.f));`),
});

/** out += mask · in, both bf16. Args: out, in, size, first, then dropoutArguments. */
export const dropoutAddProgram = (size: number): CudaProgram => ({
  key: 'dropout_add',
  entry: 'dropout_add',
  ...launchShape(size),
  source: () => frame('dropout_add', 'bf16* out, const bf16* in', /* cuda */ `
  if ((first & 3) == 0 && begin + 4 <= size) {
    Pack<bf16, 4> x = loadPack<4>(in + begin), y = loadPack<4>(out + begin);
    #pragma unroll
    for (int i = 0; i < 4; i++) y.v[i] = toBf16(toFloat(y.v[i]) + mask[i] * toFloat(x.v[i]));
    storePack(out + begin, y);
  } else for (int i = 0; i < 4; i++) if (begin + i >= 0 && begin + i < size) out[begin + i] = toBf16(toFloat(out[begin + i]) + mask[i] * toFloat(in[begin + i]));`),
});
