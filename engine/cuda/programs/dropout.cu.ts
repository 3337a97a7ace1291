/*
 * Dropout without a stored mask: element i is kept when 15 bits of half a word of the key's Philox stream reach a threshold
 * (engine/tensor/dropout-mask.ts). Bound by memory bandwidth and, close behind, by Philox's integer arithmetic. A block of the
 * stream serves two times eight neighbouring values, so sixteen values a thread.
 */
import { DROPOUT_ROUNDS, DROPOUT_SPAN as SPAN, dropoutInflation, dropoutThreshold } from '../../tensor/dropout-rate.js';
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
    { u32: dropoutThreshold(rate) },
    { f32: dropoutInflation(rate) },
    { u32: key.step >>> 0 },
    { u32: key.stream >>> 0 },
    { u32: key.seed >>> 0 },
    { u32: Math.floor(key.seed / 2 ** 32) >>> 0 },
    { pointer: drawCell },
  ];
}

/** Neighbouring values that a Philox block serves, twice: the second time with its words rotated, for values half a span on. */
const VALUES = 8;
const BLOCKS = SPAN / VALUES / 2;

/** `dropoutBlock`: the block of the stream that a draw comes of. `rotateByte`: what values in the second half of a span draw from. */
export const dropoutDraws = /* cuda */ `
__device__ __forceinline__ void dropoutBlock(u32 (&words)[4], u64 block, u32 step, u32 stream, u32 key0, u32 key1) { philox<${DROPOUT_ROUNDS}>(words, block, step, stream, key0, key1); }
__device__ __forceinline__ u32 rotateByte(u32 word) { return __byte_perm(word, 0, 0x2103); }
`;

const frame = (entry: string, parameters: string, body: string) => dropoutDraws + /* cuda */ `
extern "C" __global__ void ${entry}(${parameters}, i64 size, i64 first, ${dropoutParameters}) {
  // Thread i owns the values of Philox block i, counted from the first of the span that holds element first.
  i64 block = (i64)blockIdx.x * ${THREADS} + threadIdx.x + (first / ${SPAN}) * ${BLOCKS};
  i64 begin = block / ${BLOCKS} * ${SPAN} + block % ${BLOCKS} * ${VALUES} - first;
  if (begin >= size) return;
  ${readDraw}
  u32 words[4];
  dropoutBlock(words, (u64)block, step, stream, key0, key1);
  #pragma unroll
  for (int half = 0; half < 2; half++, begin += ${SPAN / 2}) {
    float mask[${VALUES}];
    #pragma unroll
    for (int i = 0; i < ${VALUES}; i++) {
      u32 word = half ? rotateByte(words[i >> 1]) : words[i >> 1];
      mask[i] = (word >> 16 * (i & 1) & 0x7fffu) >= threshold ? kept : 0.f;
    }
    bool whole = (first & 7) == 0 && begin >= 0 && begin + ${VALUES} <= size;
    ${body}
  }
}`;

const launchShape = (size: number) => ({ grid: [ceilDiv(ceilDiv(size + SPAN - 1, SPAN) * BLOCKS, THREADS), 1, 1] as const, block: [THREADS, 1, 1] as const });

/** out = mask · in. Args: out, in (null: ones), size, first, then dropoutArguments. `first` is element 0's place in the stream. */
export const dropoutProgram = (from: Format, to: Format, size: number): CudaProgram => ({
  key: `dropout_${from}_${to}`,
  entry: 'dropout',
  ...launchShape(size),
  source: () => frame('dropout', `${formatType[to]}* out, const ${formatType[from]}* in`, /* cuda */ `
  if (in && whole) {
    Pack<${formatType[from]}, ${VALUES}> x = loadPack<${VALUES}>(in + begin); Pack<${formatType[to]}, ${VALUES}> y;
    #pragma unroll
    for (int i = 0; i < ${VALUES}; i++) y.v[i] = Store<${formatType[to]}>::of(mask[i] * toFloat(x.v[i]));
    storePack(out + begin, y);
  } else for (int i = 0; i < ${VALUES}; i++) if (begin + i >= 0 && begin + i < size) out[begin + i] = Store<${formatType[to]}>::of(mask[i] * (in ? toFloat(in[begin + i]) : 1.f));`),
});

/** out += mask · in, both bf16. Args: out, in, size, first, then dropoutArguments. */
export const dropoutAddProgram = (size: number): CudaProgram => ({
  key: 'dropout_add',
  entry: 'dropout_add',
  ...launchShape(size),
  source: () => frame('dropout_add', 'bf16* out, const bf16* in', /* cuda */ `
  if (whole) {
    Pack<bf16, ${VALUES}> x = loadPack<${VALUES}>(in + begin), y = loadPack<${VALUES}>(out + begin);
    #pragma unroll
    for (int i = 0; i < ${VALUES}; i++) y.v[i] = toBf16(toFloat(y.v[i]) + mask[i] * toFloat(x.v[i]));
    storePack(out + begin, y);
  } else for (int i = 0; i < ${VALUES}; i++) if (begin + i >= 0 && begin + i < size) out[begin + i] = toBf16(toFloat(out[begin + i]) + mask[i] * toFloat(in[begin + i]));`),
});
