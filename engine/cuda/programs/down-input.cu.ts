/*
 * How `lora_down` reads its tall input: through shared memory, as loads into registers would be made where they are used, by a compiler
 * that would rather save registers. A thread reads what it sent itself, so waiting for its own copies is enough.
 * The input may also be made on the way, silu(gate) · up: a pass that writes x and one that reads it again fall away.
 */
import { gatedActivation } from './block-ops.cu.js';

export interface DownInputShape {
  /** Tiles of 16 rows of a block. */
  tall: number;
  warps: number;
  /** All columns of every step are there. */
  whole: boolean;
  gated: boolean;
}

/** What every card has for a block, with room for what the driver takes. */
const SHARED_BYTES = 96 << 10;

/** For each thread and each of its rows two packs, twice as many of halves. */
const stageBytes = ({ tall, warps, gated }: DownInputShape): number => tall * 2 * 2 * (gated ? 2 : 1) * warps * 32 * 16;
/** Steps on their way while one is computed: its values are read into registers, and their place is the next one's. */
const stages = (shape: DownInputShape): number => (2 * stageBytes(shape) <= SHARED_BYTES ? 2 : 1);

export const downInputBytes = (shape: DownInputShape): number => stages(shape) * stageBytes(shape);

/**
 * Pieces of CUDA C++ for the kernel's template. `parts` is the block's shared memory, free until the sums are put there; `lines` are the
 * rows' first values, counted from the block's first row; `column(k, s)` is where to read the eight columns from k + s * STEP / 2 on.
 */
export const downInput = (shape: DownInputShape) => ({
  functions: (shape.gated ? gatedActivation : '') + /* cuda */ `
typedef Pack<u32, 4> Eight; // values
${shape.gated ? `template <int THREADS> __device__ __forceinline__ Eight gatedEight(const Eight* from) {
  Eight z = from[0], up = from[THREADS], x;
  #pragma unroll
  for (int i = 0; i < 4; i++) x.v[i] = packBf16(gated(lowHalf(z.v[i]), lowHalf(up.v[i])), gated(highHalf(z.v[i]), highHalf(up.v[i])));
  return x;
}` : ''}
`,
  parameters: shape.gated ? 'bf16* x, const bf16* gate, const bf16* up' : 'const bf16* x',
  /** From one row of what is read to the next. */
  stride: shape.gated ? 'inner' : 'stride',
  /** Before the loop over k, which goes in steps of WARPS * STEP. */
  begin: /* cuda */ `constexpr int THREADS = WARPS * 32, STAGES = ${stages(shape)}, PACKS = ${shape.gated ? 2 : 1};
  Eight* ring = reinterpret_cast<Eight*>(parts) + threadIdx.x; // [STAGES][TALL][2][2][PACKS][THREADS]
  auto place = [&](int stage, int i, int h, int s) { return ring + (((stage * TALL + i) * 2 + h) * 2 + s) * PACKS * THREADS; };
  const bf16* sources[PACKS] = { ${shape.gated ? 'gate + base * inner, up + base * inner' : 'x + base * stride'} };
  auto fetch = [&](int i, int k, int stage) {
    #pragma unroll
    for (int h = 0; h < 2; h++)
      #pragma unroll
      for (int s = 0; s < 2; s++)
        #pragma unroll
        for (int p = 0; p < PACKS; p++) copyAsync<16>(place(stage, i, h, s) + p * THREADS, sources[p] + (lines[i][h] + column(k, s)), true);
    commitCopies();
  };
  int stage = 0;
  #pragma unroll
  for (int ahead = 0; ahead < STAGES; ahead++)
    #pragma unroll
    for (int i = 0; i < TALL; i++) fetch(i, (warp + ahead * WARPS) * STEP + t * 8, ahead);`,
  /** At the start of a step's tile i: its values, and the next fetch into their place. An x that is made is written, for later passes. */
  take: /* cuda */ `waitCopies<STAGES * TALL - 1>();
      __syncwarp(); // keeps the compiler's reads behind the wait
      Eight words[2][2];
      #pragma unroll
      for (int h = 0; h < 2; h++)
        #pragma unroll
        for (int s = 0; s < 2; s++) words[h][s] = ${shape.gated ? 'gatedEight<THREADS>(place(stage, i, h, s))' : '*place(stage, i, h, s)'};
      __syncwarp(); // and before the copies
      fetch(i, k + STAGES * WARPS * STEP, stage);${shape.gated ? `
      #pragma unroll
      for (int h = 0; h < 2; h++)
        #pragma unroll
        for (int s = 0; s < 2; s++) {
          i64 row = base + i * 16 + h * 8 + g;
          if (row < rows${shape.whole ? '' : ' && inside[s]'}) *reinterpret_cast<Eight*>(x + row * stride + k + s * (STEP / 2)) = words[h][s];
        }` : ''}`,
  /** At the end of a step. */
  advance: 'stage = stage == STAGES - 1 ? 0 : stage + 1;',
  /** After the loop: no copies in the way of the sums; where x is made, zeros in the room at the ends of its rows. */
  end: /* cuda */ `waitCopies<0>();${shape.gated ? `
  int units = (stride - inner) >> 3;
  #pragma unroll 1
  for (int i = threadIdx.x; i < 16 * TALL * units; i += THREADS)
    if (base + i / units < rows) storePack(x + (base + i / units) * stride + inner + i % units * 8, Pack<bf16, 8>{});` : ''}
  __syncthreads();`,
});
