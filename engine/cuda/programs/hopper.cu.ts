/*
 * Hopper's own instructions (sm_90a) for kernels that use them: barriers in shared memory, the copy engine (TMA), and wgmma,
 * the product of a warpgroup (4 warps) that reads operands from shared memory on its own.
 *
 * A tile of rows x columns is kept as chunks of 64 columns: chunk c is rows x 128 bytes, each row's eight 16-byte units permuted by
 * the row's number modulo 8 (the copy engine's 128-byte swizzle), each chunk at a multiple of 1,024 bytes.
 */
export const hopperPrelude = /* cuda */ `
/** CUtensorMap: how the copy engine finds boxes of a tensor. */
struct __align__(64) TensorMap { u64 opaque[16]; };

__device__ __forceinline__ void barrierInit(u32 barrier, u32 arrivals) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(barrier), "r"(arrivals)); }
/** Makes the barriers' initial state, and shared memory written so far, known to the copy engine and the tensor cores. */
__device__ __forceinline__ void fenceBarriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void fenceAsync() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void arrive(u32 barrier) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(barrier) : "memory"); }
/** Arrives, and announces copies of so many bytes. */
__device__ __forceinline__ void expectBytes(u32 barrier, u32 bytes) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(barrier), "r"(bytes) : "memory"); }
/** Waits until the phase of this parity is over. */
__device__ __forceinline__ void waitBarrier(u32 barrier, u32 parity) {
  asm volatile("{\\n.reg .pred done;\\nagain:\\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\\n@!done bra again;\\n}" :: "r"(barrier), "r"(parity) : "memory");
}
/** Barrier of a group of threads within the block; ids 1 to 15. */
__device__ __forceinline__ void syncGroup(int id, int threads) { asm volatile("bar.sync %0, %1;" :: "r"(id), "r"(threads) : "memory"); }
__device__ __forceinline__ void arriveGroup(int id, int threads) { asm volatile("bar.arrive %0, %1;" :: "r"(id), "r"(threads) : "memory"); }

/** A box of a [depth, rows, columns] tensor into shared memory; outside of the tensor it is zeros. */
__device__ __forceinline__ void copyBox(u32 to, const TensorMap* map, u32 barrier, int column, int row, int depth) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];"
    :: "r"(to), "l"(map), "r"(barrier), "r"(column), "r"(row), "r"(depth) : "memory");
}
/** Consecutive bytes; addresses and size are multiples of 16. */
__device__ __forceinline__ void copyBytes(u32 to, const void* from, u32 bytes, u32 barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" :: "r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}

template <int N> __device__ __forceinline__ void moreRegisters() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(N)); }
template <int N> __device__ __forceinline__ void fewerRegisters() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(N)); }

/** Operand whose inner dimension lies along the rows of a chunk; the next step of 16 is 2 further, the next chunk rows * 8. */
__device__ __forceinline__ u64 alongRows(u32 address) { return (u64)((address & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)64 << 32 | (u64)1 << 62; }
/** Operand whose inner dimension goes down the rows of a tile of ROWS rows (all its chunks); the next step of 16 is 128 further. */
template <int ROWS> __device__ __forceinline__ u64 downRows(u32 address) { return (u64)((address & 0x3ffff) >> 4) | (u64)(ROWS * 8) << 16 | (u64)64 << 32 | (u64)1 << 62; }

/** Registers of products may be read and written again only between a wait and the next fence. */
__device__ __forceinline__ void fenceProducts() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commitProducts() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> __device__ __forceinline__ void waitProducts() { asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(PENDING) : "memory"); }
/** Keeps the compiler from moving accesses to these registers across this place. */
template <int N> __device__ __forceinline__ void pin(float (&r)[N]) {
  #pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+f"(r[i]) :: "memory");
}

/** Byte offset of (row, byte of the row's chunk) in a swizzled chunk. */
__device__ __forceinline__ u32 swizzled(int row, int byte) { return row * 128 + ((byte >> 4 ^ row & 7) << 4) + (byte & 15); }
`;

/**
 * Products of a warpgroup for a number of output columns, a multiple of 8:
 * `productShared<columns>`: d[64 x columns] (+)= a · bᵀ, a [64 x 16] and b [columns x 16] in shared memory, both `alongRows`;
 * `productRegisters<columns>`: d += a · b, a [64 x 16] in registers, b [16 x columns] `downRows`.
 * Thread layout of d and a: warp w has rows 16w … 16w + 15, within them as `mma` of the prelude.
 */
export const wgmmaProducts = (columns: readonly number[]): string =>
  [...new Set(columns)]
    .map((n) => {
      const count = n / 2;
      const accumulators = Array.from({ length: count }, (_, i) => `%${i}`).join(', ');
      const outputs = Array.from({ length: count }, (_, i) => `"+f"(d[${i}])`).join(', ');
      const shape = `wgmma.mma_async.sync.aligned.m64n${n}k16.f32.bf16.bf16`;
      return /* cuda */ `
__device__ __forceinline__ void productShared(float (&d)[${count}], u64 a, u64 b, int add) {
  asm volatile("{\\n.reg .pred add;\\nsetp.ne.b32 add, %${count + 2}, 0;\\n${shape} {${accumulators}}, %${count}, %${count + 1}, add, 1, 1, 0, 0;\\n}"
    : ${outputs} : "l"(a), "l"(b), "r"(add));
}
__device__ __forceinline__ void productRegisters(float (&d)[${count}], u32 a0, u32 a1, u32 a2, u32 a3, u64 b) {
  asm volatile("{\\n.reg .pred add;\\nsetp.eq.b32 add, 0, 0;\\n${shape} {${accumulators}}, {%${count}, %${count + 1}, %${count + 2}, %${count + 3}}, %${count + 4}, add, 1, 1, 1;\\n}"
    : ${outputs} : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
}`;
    })
    .join('\n');
