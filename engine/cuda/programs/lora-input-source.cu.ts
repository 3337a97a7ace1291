/*
 * Where `lora_down` has its tall input from: memory, or the two halves of a gated activation. The latter saves a pass that writes x and
 * one that reads it again: the halves are read by the same 16 bytes a thread, and x is written beside the product.
 */
import { gatedActivation } from './block-ops.cu.js';

/** Pieces of CUDA C++. A pack is eight values of a row, which begin at a multiple of eight. */
export interface InputSource {
  functions: string;
  /** The kernel's first parameters. */
  parameters: string;
  /** Type of what is kept for each row, and its value for `row`. */
  line: string;
  lineOf: string;
  /** Type of a pack on its way from memory. */
  fetched: string;
  /** Asks for the pack at column k. */
  fetch: (line: string, k: string) => string;
  /** Its values, four words of two. */
  values: (fetched: string) => string;
  /** A statement for what else is done with a pack's values, those of columns k to k + 7 of a row. */
  leave: (values: string, row: string) => string;
  /** The same once, for the block's `16 * TALL` rows from `base`; a barrier comes before hidden states are written. */
  finish: string;
}

const fromMemory: InputSource = {
  functions: '',
  parameters: 'const bf16* x',
  line: 'const bf16*',
  lineOf: 'x + row * stride',
  fetched: 'Pack<u32, 4>',
  fetch: (line, k) => `*reinterpret_cast<const Pack<u32, 4>*>(${line} + ${k})`,
  values: (fetched) => fetched,
  leave: () => '',
  finish: '',
};

const fromHalves: InputSource = {
  functions: gatedActivation + /* cuda */ `
struct Halves { Pack<u32, 4> gate, up; };
__device__ __forceinline__ Halves fetchHalves(const bf16* gate, const bf16* up, i64 at) {
  return { *reinterpret_cast<const Pack<u32, 4>*>(gate + at), *reinterpret_cast<const Pack<u32, 4>*>(up + at) };
}
__device__ __forceinline__ Pack<u32, 4> gatedPack(const Halves& halves) {
  Pack<u32, 4> x;
  #pragma unroll
  for (int i = 0; i < 4; i++) {
    u32 z = halves.gate.v[i], up = halves.up.v[i];
    x.v[i] = packBf16(gated(lowHalf(z), lowHalf(up)), gated(highHalf(z), highHalf(up)));
  }
  return x;
}
`,
  parameters: 'bf16* x, const bf16* gate, const bf16* up',
  line: 'i64',
  lineOf: 'row * inner',
  fetched: 'Halves',
  fetch: (line, k) => `fetchHalves(gate, up, ${line} + ${k})`,
  values: (fetched) => `gatedPack(${fetched})`,
  leave: (values, row) => `if (k < inner && ${row} < rows) *reinterpret_cast<Pack<u32, 4>*>(x + (${row}) * stride + k) = ${values};`,
  finish: /* cuda */ `for (int i = threadIdx.x, units = (stride - inner) >> 3; i < 16 * TALL * units; i += WARPS * 32)
    if (base + i / units < rows) storePack(x + (base + i / units) * stride + inner + i % units * 8, Pack<bf16, 8>{}); // zeros in the room`,
};

/** @param gated x is made of its halves: Args x, gate, up; else it is there: Args x */
export const inputSource = (gated: boolean): InputSource => (gated ? fromHalves : fromMemory);
