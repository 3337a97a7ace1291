/*
 * `lora_down`'s tall input made on the way, silu(gate) · up: a pass that writes x and one that reads it again fall away. Its halves come
 * through shared memory, two steps ahead: loads into registers end up where they are used, as the compiler would rather save registers.
 * A thread waits for its own copies alone, so no barrier is needed.
 */
import { gatedActivation } from './block-ops.cu.js';

/** Steps that are on their way to shared memory while one is computed: it is read into registers, and its place is the next one's. */
const STAGES = 2;

/** Bytes of a block's stages, 16 or 32 rows tall: for each thread and row two packs of each half. */
export const gatedInputBytes = (tall: number, warps: number): number => STAGES * tall * 2 * 2 * 2 * warps * 32 * 16;

/** Pieces of CUDA C++ for the kernel's template, in its order. `parts` is the block's shared memory, free until the sums are put there. */
export const gatedInput = {
  functions: gatedActivation + /* cuda */ `
typedef Pack<u32, 4> Eight; // values
/** Sends eight values of both halves to a thread's places, THREADS apart. */
template <int THREADS> __device__ __forceinline__ void fetchHalves(Eight* to, const bf16* gate, const bf16* up, u32 at) {
  copyAsync<16>(to, gate + at, true);
  copyAsync<16>(to + THREADS, up + at, true);
}
template <int THREADS> __device__ __forceinline__ Eight gatedEight(const Eight* from) {
  Eight z = from[0], up = from[THREADS], x;
  #pragma unroll
  for (int i = 0; i < 4; i++) x.v[i] = packBf16(gated(lowHalf(z.v[i]), lowHalf(up.v[i])), gated(highHalf(z.v[i]), highHalf(up.v[i])));
  return x;
}
`,
  parameters: 'bf16* x, const bf16* gate, const bf16* up',
  /** Before the loop over k, which goes in steps of WARPS * STEP. */
  begin: /* cuda */ `constexpr int THREADS = WARPS * 32, STAGES = ${STAGES};
  Eight* ring = reinterpret_cast<Eight*>(parts) + threadIdx.x; // [STAGES][TALL][2][2][2][THREADS]
  gate += base * inner; up += base * inner;
  auto fetch = [&](int k, int stage) {
    #pragma unroll
    for (int i = 0; i < TALL; i++)
      #pragma unroll
      for (int h = 0; h < 2; h++)
        #pragma unroll
        for (int s = 0; s < 2; s++) fetchHalves<THREADS>(ring + (((stage * TALL + i) * 2 + h) * 2 + s) * 2 * THREADS, gate, up, lines[i][h] + column(k, s));
    commitCopies();
  };
  int stage = 0;
  #pragma unroll
  for (int ahead = 0; ahead < STAGES; ahead++) fetch((warp + ahead * WARPS) * STEP + t * 8, ahead);`,
  /**
   * At the start of a step: its values, the next fetch into their place, and x itself, which later passes read.
   * @param whole all of a step's columns are there
   */
  take: (whole: boolean): string => /* cuda */ `waitCopies<STAGES - 1>();
    __syncwarp(); // keeps the compiler's reads behind the wait
    Eight words[TALL][2][2];
    #pragma unroll
    for (int i = 0; i < TALL; i++)
      #pragma unroll
      for (int h = 0; h < 2; h++)
        #pragma unroll
        for (int s = 0; s < 2; s++) words[i][h][s] = gatedEight<THREADS>(ring + (((stage * TALL + i) * 2 + h) * 2 + s) * 2 * THREADS);
    __syncwarp(); // and before the copies
    fetch(k + STAGES * WARPS * STEP, stage);
    stage = stage == STAGES - 1 ? 0 : stage + 1;
    #pragma unroll
    for (int i = 0; i < TALL; i++)
      #pragma unroll
      for (int h = 0; h < 2; h++)
        #pragma unroll
        for (int s = 0; s < 2; s++) {
          i64 row = base + i * 16 + h * 8 + g;
          if (row < rows${whole ? '' : ' && inside[s]'}) *reinterpret_cast<Eight*>(x + row * stride + k + s * (STEP / 2)) = words[i][h][s];
        }`,
  /** After the loop: zeros in the room at the ends of x's rows, and no thread's copies in the way of the sums. */
  end: /* cuda */ `waitCopies<0>();
  int units = (stride - inner) >> 3;
  #pragma unroll 1
  for (int i = threadIdx.x; i < 16 * TALL * units; i += THREADS)
    if (base + i / units < rows) storePack(x + (base + i / units) * stride + inner + i % units * 8, Pack<bf16, 8>{});
  __syncthreads();`,
};
