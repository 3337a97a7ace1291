/**
 * What every kernel's source begins with: storage types, conversions, reductions, asynchronous copies, tensor-core products
 * and Philox. Plain PTX instead of CUDA's headers, so that NVRTC alone is enough to compile it.
 */
export const prelude = /* cuda */ `
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef long long i64;
typedef unsigned long long u64;
#define INFINITY_F __int_as_float(0x7f800000)
#define WARP 32

// bfloat16 is storage only: arithmetic is in float.
struct __align__(2) bf16 { u16 bits; };
struct __align__(8) bf16x4 { bf16 v[4]; };
struct __align__(16) bf16x8 { bf16 v[8]; };

__device__ __forceinline__ float toFloat(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
__device__ __forceinline__ float toFloat(float x) { return x; }
__device__ __forceinline__ float toFloat(int x) { return (float)x; }
__device__ __forceinline__ float toFloat(u8 x) { return (float)x; }
__device__ __forceinline__ bf16 toBf16(float x) { bf16 y; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); return y; }
/** Two floats in one register, the first in the low half. */
__device__ __forceinline__ u32 packBf16(float low, float high) { u32 y; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low)); return y; }
__device__ __forceinline__ float lowHalf(u32 x) { return __uint_as_float(x << 16); }
__device__ __forceinline__ float highHalf(u32 x) { return __uint_as_float(x & 0xffff0000u); }

template <typename T> struct Store;
template <> struct Store<float> { static __device__ __forceinline__ float of(float x) { return x; } };
template <> struct Store<bf16> { static __device__ __forceinline__ bf16 of(float x) { return toBf16(x); } };
template <> struct Store<int> { static __device__ __forceinline__ int of(float x) { return (int)x; } };
template <> struct Store<u8> { static __device__ __forceinline__ u8 of(float x) { return x != 0.f; } };

/** N values at an address that is a multiple of N values, in one access where the hardware has one. */
template <typename T, int N> struct __align__(sizeof(T) * N > 16 ? 16 : sizeof(T) * N) Pack { T v[N]; };
template <int N, typename T> __device__ __forceinline__ Pack<T, N> loadPack(const T* p) { return *reinterpret_cast<const Pack<T, N>*>(p); }
template <int N, typename T> __device__ __forceinline__ void storePack(T* p, const Pack<T, N>& x) { *reinterpret_cast<Pack<T, N>*>(p) = x; }

__device__ __forceinline__ float warpSum(float x) {
  #pragma unroll
  for (int i = 16; i; i >>= 1) x += __shfl_xor_sync(0xffffffffu, x, i);
  return x;
}
__device__ __forceinline__ float warpMax(float x) {
  #pragma unroll
  for (int i = 16; i; i >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, i));
  return x;
}
/** Sum over a block of at most 1,024 threads, the same in every thread; the order is fixed. */
__device__ __forceinline__ float blockSum(float x) {
  __shared__ float parts[33];
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
  x = warpSum(x);
  __syncthreads();
  if (lane == 0) parts[warp] = x;
  __syncthreads();
  if (warp == 0) { float y = warpSum(lane < warps ? parts[lane] : 0.f); if (lane == 0) parts[32] = y; }
  __syncthreads();
  return parts[32];
}
__device__ __forceinline__ float blockMax(float x) {
  __shared__ float parts[33];
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
  x = warpMax(x);
  __syncthreads();
  if (lane == 0) parts[warp] = x;
  __syncthreads();
  if (warp == 0) { float y = warpMax(lane < warps ? parts[lane] : -INFINITY_F); if (lane == 0) parts[32] = y; }
  __syncthreads();
  return parts[32];
}

/** The thread's place in its warp, asked for anew: what is computed from it does not take registers before it is needed. */
__device__ __forceinline__ int laneNow() { int lane; asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane)); return lane; }
__device__ __forceinline__ u32 sharedAddress(const void* p) { return (u32)__cvta_generic_to_shared(p); }
/** 16 bytes; the L2 cache gets the whole line of 128, whose other parts neighbouring warps are about to ask for. */
__device__ __forceinline__ Pack<u32, 4> loadOfLine(const void* p) {
  Pack<u32, 4> x;
  asm volatile("ld.global.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(x.v[0]), "=r"(x.v[1]), "=r"(x.v[2]), "=r"(x.v[3]) : "l"(p));
  return x;
}
/** BYTES (4, 8 or 16) from global to shared memory without passing registers; zeros when not valid. 16 bytes bring their whole line to the L2 cache. */
template <int BYTES> __device__ __forceinline__ void copyAsync(void* to, const void* from, bool valid) {
  int size = valid ? BYTES : 0;
  if (BYTES == 16) asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" :: "r"(sharedAddress(to)), "l"(from), "r"(size));
  else asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" :: "r"(sharedAddress(to)), "l"(from), "n"(BYTES == 16 ? 8 : BYTES), "r"(size));
}
__device__ __forceinline__ void commitCopies() { asm volatile("cp.async.commit_group;"); }
template <int PENDING> __device__ __forceinline__ void waitCopies() { asm volatile("cp.async.wait_group %0;" :: "n"(PENDING)); }

/** Four 8x8 tiles of 16-bit values; lane i gives the address of row i%8 of tile i/8. */
__device__ __forceinline__ void loadMatrix4(u32 (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(sharedAddress(row)));
}
__device__ __forceinline__ void loadMatrix4Transposed(u32 (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(sharedAddress(row)));
}
/**
 * c[16x8] += a[16x16] b[16x8], bf16 in, float out. With g = lane/4 and t = lane%4: a holds rows g, g+8 at columns 2t, 2t+1
 * (a0, a1) and 2t+8, 2t+9 (a2, a3); b rows 2t, 2t+1 (b0) and 2t+8, 2t+9 (b1) of column g; c rows g (c0, c1) and g+8 (c2, c3)
 * at columns 2t, 2t+1.
 */
__device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
    : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/** Philox4x32 of ROUNDS rounds, word for word as engine/random/philox.ts: the block at (block, step, stream) under the seed's two halves. */
template <int ROUNDS> __device__ __forceinline__ void philox(u32 (&out)[4], u64 block, u32 step, u32 stream, u32 k0, u32 k1) {
  u32 c0 = (u32)block, c1 = (u32)(block >> 32), c2 = step, c3 = stream;
  #pragma unroll
  for (int round = 0; round < ROUNDS; round++) {
    u32 h0 = __umulhi(0xd2511f53u, c0), l0 = 0xd2511f53u * c0, h1 = __umulhi(0xcd9e8d57u, c2), l1 = 0xcd9e8d57u * c2;
    c0 = h1 ^ c1 ^ k0; c1 = l1; c2 = h0 ^ c3 ^ k1; c3 = l0;
    k0 += 0x9e3779b9u; k1 += 0xbb67ae85u;
  }
  out[0] = c0; out[1] = c1; out[2] = c2; out[3] = c3;
}
#line 1
`;
