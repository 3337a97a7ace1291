/*
 * `lora_down`'s tall input made on the way, silu(gate) · up: a pass that writes x and one that reads it again fall away. Its halves come
 * through shared memory, two steps ahead: loads into registers end up where they are used, as the compiler would rather save registers.
 * A thread waits for its own copies alone, so no barrier is needed.
 */
import { gatedActivation } from './block-ops.cu.js';

/** Steps that are in shared memory or on their way to it. */
const STAGES = 3;

/** Bytes of a block's stages, 16 or 32 rows tall: for each thread and row two packs, one of each half. */
export const gatedInputBytes = (tall: number, warps: number): number => STAGES * tall * 2 * 2 * warps * 32 * 16;

/** Pieces of CUDA C++ for the kernel's template, in its order. `parts` is the block's shared memory, free until the sums are put there. */
export const gatedInput = {
  functions: gatedActivation + /* cuda */ `
typedef Pack<u32, 4> Eight; // values
/** Sends eight values of both halves to a thread's places, THREADS apart. */
template <int THREADS> __device__ __forceinline__ void fetchHalves(Eight* to, const bf16* gate, const bf16* up, i64 at) {
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
  /** Before the loop over k, which goes in steps of WARPS * 32. */
  begin: /* cuda */ `constexpr int THREADS = WARPS * 32;
  Eight* ring = reinterpret_cast<Eight*>(parts) + threadIdx.x; // [${STAGES}][TALL][2][2][THREADS]
  auto fetch = [&](int k, int stage) {
    #pragma unroll
    for (int i = 0; i < TALL; i++)
      #pragma unroll
      for (int h = 0; h < 2; h++) fetchHalves<THREADS>(ring + ((stage * TALL + i) * 2 + h) * 2 * THREADS, gate, up, lines[i][h] + (k < inner ? k : 0));
    commitCopies();
  };
  int stage = 0;
  #pragma unroll
  for (int ahead = 0; ahead < ${STAGES - 1}; ahead++) fetch(warp * 32 + t * 8 + ahead * WARPS * 32, ahead);`,
  /** At the start of a step: its values, and the next fetch into the place of the step before. */
  take: /* cuda */ `waitCopies<${STAGES - 2}>();
    __syncwarp(); // keeps the compiler's reads behind the wait
    Eight read[TALL][2];
    #pragma unroll
    for (int i = 0; i < TALL; i++)
      #pragma unroll
      for (int h = 0; h < 2; h++) read[i][h] = gatedEight<THREADS>(ring + ((stage * TALL + i) * 2 + h) * 2 * THREADS);
    fetch(k + ${STAGES - 1} * WARPS * 32, stage == 0 ? ${STAGES - 1} : stage - 1);
    stage = stage == ${STAGES - 1} ? 0 : stage + 1;`,
  /** At the end of a step: x itself, which later passes read. */
  leave: /* cuda */ `#pragma unroll
    for (int i = 0; i < TALL; i++)
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        i64 row = base + i * 16 + h * 8 + g;
        if (k < inner && row < rows) *reinterpret_cast<Eight*>(x + row * stride + k) = read[i][h];
      }`,
  /** After the loop: zeros in the room at the ends of x's rows, and no thread's copies in the way of the sums. */
  end: /* cuda */ `waitCopies<0>();
  int units = (stride - inner) >> 3;
  #pragma unroll 1
  for (int i = threadIdx.x; i < 16 * TALL * units; i += THREADS)
    if (base + i / units < rows) storePack(x + (base + i / units) * stride + inner + i % units * 8, Pack<bf16, 8>{});
  __syncthreads();`,
};
