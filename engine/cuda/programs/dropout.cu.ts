/*
 * Dropout without a stored mask: element i is kept when 15 bits of half a word of the key's Philox stream reach a threshold
 * (engine/tensor/dropout-mask.ts). Bound by memory bandwidth and, close behind, by Philox's integer arithmetic. A block of the
 * stream holds eight draws, so eight values a thread.
 */
import { dropoutInflation, dropoutThreshold } from '../../tensor/dropout-rate.js';
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

/** Values of one Philox block. */
const VALUES = 8;

/**
 * `drawEight`: for the eight values of a block of the stream, four words whose bits 15 and 31 say whether the first and the second
 * of two neighbours are kept. `pairMask` spreads those bits over the halves of a word.
 */
export const dropoutDraws = /* cuda */ `
struct Draws { u32 words[4]; };
__device__ __forceinline__ Draws drawEight(u64 block, u32 threshold, u32 step, u32 stream, u32 key0, u32 key1) {
  Draws draws;
  philox(draws.words, block, step, stream, key0, key1);
  u32 both = threshold * 0x10001u;
  #pragma unroll
  for (int i = 0; i < 4; i++) draws.words[i] = (draws.words[i] | 0x80008000u) - both; // each half keeps its top bit where 15 bits reach the threshold
  return draws;
}
__device__ __forceinline__ u32 pairMask(u32 word) { u32 mask; asm("prmt.b32 %0, %1, %1, 0xBB99;" : "=r"(mask) : "r"(word)); return mask; }
/** Bit i for value i of the eight. */
__device__ __forceinline__ u32 keepByte(const Draws& draws) {
  u32 low = (draws.words[0] & 0x80008000u) >> 15 | (draws.words[1] & 0x80008000u) >> 13; // bits 0, 16 and 2, 18
  u32 high = (draws.words[2] & 0x80008000u) >> 11 | (draws.words[3] & 0x80008000u) >> 9; // bits 4, 20 and 6, 22
  u32 all = low | high;
  return (all | all >> 15) & 0xffu;
}
`;

const frame = (entry: string, parameters: string, body: string) => dropoutDraws + /* cuda */ `
extern "C" __global__ void ${entry}(${parameters}, i64 size, i64 first, ${dropoutParameters}) {
  // Thread i owns the values of Philox block i, counted from the block that holds element first.
  i64 block = (i64)blockIdx.x * ${THREADS} + threadIdx.x + (first >> 3);
  i64 begin = (block << 3) - first;
  if (begin >= size) return;
  ${readDraw}
  Draws draws = drawEight((u64)block, threshold, step, stream, key0, key1);
  float mask[${VALUES}];
  #pragma unroll
  for (int i = 0; i < ${VALUES}; i++) mask[i] = draws.words[i >> 1] >> (i & 1 ? 31 : 15) & 1u ? kept : 0.f;
  ${body}
}`;

const launchShape = (size: number) => ({ grid: [ceilDiv(size + VALUES - 1, THREADS * VALUES), 1, 1] as const, block: [THREADS, 1, 1] as const });

/** out = mask · in. Args: out, in (null: ones), size, first, then dropoutArguments. `first` is element 0's place in the stream. */
export const dropoutProgram = (from: Format, to: Format, size: number): CudaProgram => ({
  key: `dropout_${from}_${to}`,
  entry: 'dropout',
  ...launchShape(size),
  source: () => frame('dropout', `${formatType[to]}* out, const ${formatType[from]}* in`, /* cuda */ `
  if (in && (first & 7) == 0 && begin + ${VALUES} <= size) {
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
  if ((first & 7) == 0 && begin + ${VALUES} <= size) {
    Pack<bf16, ${VALUES}> x = loadPack<${VALUES}>(in + begin), y = loadPack<${VALUES}>(out + begin);
    #pragma unroll
    for (int i = 0; i < ${VALUES}; i++) y.v[i] = toBf16(toFloat(y.v[i]) + mask[i] * toFloat(x.v[i]));
    storePack(out + begin, y);
  } else for (int i = 0; i < ${VALUES}; i++) if (begin + i >= 0 && begin + i < size) out[begin + i] = toBf16(toFloat(out[begin + i]) + mask[i] * toFloat(in[begin + i]));`),
});
