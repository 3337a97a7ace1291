/* The elementwise and row-wise parts of a LLaMA block: each reads and writes a value once and is bound by memory bandwidth. */
import { ceilDiv, formatType, type CudaProgram, type Format } from '../program.js';

/** Threads for a row: enough for eight values each, at least a warp. */
const rowThreads = (columns: number) => Math.min(1024, Math.max(32, ceilDiv(ceilDiv(columns, 8), 32) * 32));

/** y = x / sqrt(mean(x²) + eps) · weight. A block a row; the row stays in registers between its two uses. Args: y, x, weight, columns, y's stride (zeros beyond the columns), eps. */
export const rmsNormProgram = (x: Format, weight: Format, rows: number, columns: number): CudaProgram => {
  const threads = rowThreads(columns), vector = columns % 8 === 0, each = ceilDiv(columns, threads * 8);
  return {
    key: `rms_norm_${x}_${weight}_${threads}_${vector ? 'v' : 's'}_${each}`,
    entry: 'rms_norm',
    grid: [rows, 1, 1],
    block: [threads, 1, 1],
    source: () => /* cuda */ `
typedef ${formatType[x]} T;
extern "C" __global__ void rms_norm(T* y, const T* x, const ${formatType[weight]}* weight, int columns, int stride, float eps) {
  const T* in = x + (i64)blockIdx.x * columns; T* out = y + (i64)blockIdx.x * stride;
  ${vector
    ? `Pack<T, 8> row[${each}];
  float sum = 0.f;
  #pragma unroll
  for (int i = 0; i < ${each}; i++) {
    int at = (i * ${threads} + threadIdx.x) * 8;
    if (at < columns) {
      row[i] = loadPack<8>(in + at);
      #pragma unroll
      for (int j = 0; j < 8; j++) { float v = toFloat(row[i].v[j]); sum += v * v; }
    }
  }
  float r = rsqrtf(blockSum(sum) / columns + eps);
  #pragma unroll
  for (int i = 0; i < ${each}; i++) {
    int at = (i * ${threads} + threadIdx.x) * 8;
    if (at < columns) {
      Pack<${formatType[weight]}, 8> w = loadPack<8>(weight + at);
      #pragma unroll
      for (int j = 0; j < 8; j++) row[i].v[j] = Store<T>::of(toFloat(row[i].v[j]) * r * toFloat(w.v[j]));
      storePack(out + at, row[i]);
    }
  }
  for (int at = columns + threadIdx.x * 8; at < stride; at += ${threads} * 8) storePack(out + at, Pack<T, 8>{});`
    : `float sum = 0.f;
  for (int i = threadIdx.x; i < columns; i += ${threads}) { float v = toFloat(in[i]); sum += v * v; }
  float r = rsqrtf(blockSum(sum) / columns + eps);
  for (int i = threadIdx.x; i < columns; i += ${threads}) out[i] = Store<T>::of(toFloat(in[i]) * r * toFloat(weight[i]));`}
}`,
  };
};

/** dx = skip + r·g - x·r³·mean(g·x) with g = dy·weight and r = 1/rms. Args: dx, dy, x, weight, skip (null where absent), columns, eps. */
export const rmsNormGradProgram = (x: Format, dy: Format, weight: Format, skip: Format | undefined, rows: number, columns: number): CudaProgram => {
  const threads = rowThreads(columns), vector = columns % 8 === 0, each = ceilDiv(columns, threads * 8);
  return {
    key: `rms_norm_grad_${x}_${dy}_${weight}_${skip ?? 'none'}_${threads}_${vector ? 'v' : 's'}_${each}`,
    entry: 'rms_norm_grad',
    grid: [rows, 1, 1],
    block: [threads, 1, 1],
    source: () => /* cuda */ `
typedef ${formatType[x]} T; typedef ${formatType[dy]} G; typedef ${formatType[weight]} W; typedef ${formatType[skip ?? x]} S;
extern "C" __global__ void rms_norm_grad(T* dx, const G* dy, const T* x, const W* weight, const S* skip, int columns, float eps) {
  i64 start = (i64)blockIdx.x * columns;
  ${vector
    ? `float xs[${each}][8], gs[${each}][8], squares = 0.f, products = 0.f;
  #pragma unroll
  for (int i = 0; i < ${each}; i++) {
    int at = (i * ${threads} + threadIdx.x) * 8;
    if (at < columns) {
      Pack<T, 8> a = loadPack<8>(x + start + at); Pack<G, 8> b = loadPack<8>(dy + start + at); Pack<W, 8> w = loadPack<8>(weight + at);
      #pragma unroll
      for (int j = 0; j < 8; j++) {
        xs[i][j] = toFloat(a.v[j]); gs[i][j] = toFloat(b.v[j]) * toFloat(w.v[j]);
        squares += xs[i][j] * xs[i][j]; products += xs[i][j] * gs[i][j];
      }
    }
  }
  float r = rsqrtf(blockSum(squares) / columns + eps);
  float slope = blockSum(products) / columns * r * r * r;
  #pragma unroll
  for (int i = 0; i < ${each}; i++) {
    int at = (i * ${threads} + threadIdx.x) * 8;
    if (at < columns) {
      Pack<T, 8> out;
      ${skip ? 'Pack<S, 8> before = loadPack<8>(skip + start + at);' : ''}
      #pragma unroll
      for (int j = 0; j < 8; j++) out.v[j] = Store<T>::of(gs[i][j] * r - xs[i][j] * slope${skip ? ' + toFloat(before.v[j])' : ''});
      storePack(dx + start + at, out);
    }
  }`
    : `float squares = 0.f, products = 0.f;
  for (int i = threadIdx.x; i < columns; i += ${threads}) {
    float v = toFloat(x[start + i]), g = toFloat(dy[start + i]) * toFloat(weight[i]);
    squares += v * v; products += v * g;
  }
  float r = rsqrtf(blockSum(squares) / columns + eps);
  float slope = blockSum(products) / columns * r * r * r;
  for (int i = threadIdx.x; i < columns; i += ${threads})
    dx[start + i] = Store<T>::of(toFloat(dy[start + i]) * toFloat(weight[i]) * r - toFloat(x[start + i]) * slope${skip ? ' + toFloat(skip[start + i])' : ''});`}
}`,
  };
};

/** Pairs that one thread rotates: two neighbouring ones where the halves allow it. */
const rotaryPairs = (half: number) => (half % 2 === 0 ? 2 : 1);

/** Accesses of each half that a thread has under way at once. */
const ROTARY_ACCESSES = 2;

/**
 * Rotates pairs (i, i + D/2) of each head, of one or two tensors of as many positions; `sizes`: their values.
 * Args: cos, sin, half, sign; y, x, pairs, heads of each.
 */
export const rotaryProgram = (x: Format, sizes: readonly number[], half: number): CudaProgram => ({
  key: `rotary_${x}_${rotaryPairs(half)}_${sizes.length}`,
  entry: 'rotary',
  grid: [ceilDiv(Math.max(...sizes) / 2, 256 * rotaryPairs(half) * ROTARY_ACCESSES), sizes.length, 1],
  block: [256, 1, 1],
  source: () => /* cuda */ `
typedef ${formatType[x]} T;
extern "C" __global__ void rotary(const float* cosines, const float* sines, int half, float sign${sizes.map((_, m) => `,\n    T* y${m}, const T* x${m}, i64 pairs${m}, int heads${m}`).join('')}) {
  constexpr int N = ${rotaryPairs(half)}, EACH = ${ROTARY_ACCESSES};
  ${['T* y', 'const T* x', 'i64 pairs', 'int heads'].map((declared) => {
    const name = declared.split(' ').at(-1)!;
    return `${declared} = ${sizes.length === 1 ? `${name}0` : `blockIdx.y == 0 ? ${name}0 : ${name}1`};`;
  }).join(' ')}
  Pack<float, N> c[EACH], s[EACH];
  Pack<T, N> a[EACH], b[EACH];
  i64 low[EACH];
  #pragma unroll
  for (int e = 0; e < EACH; e++) {
    i64 at = (((i64)blockIdx.x * EACH + e) * 256 + threadIdx.x) * N;
    low[e] = -1;
    if (at >= pairs) continue;
    u32 row = (u32)(at / half); // fewer than 2^32 heads of all positions
    int i = (int)(at - (i64)row * half);
    i64 angle = (i64)(row / (u32)heads) * half + i;
    low[e] = (i64)row * 2 * half + i;
    c[e] = loadPack<N>(cosines + angle); s[e] = loadPack<N>(sines + angle);
    a[e] = loadPack<N>(x + low[e]); b[e] = loadPack<N>(x + low[e] + half);
  }
  #pragma unroll
  for (int e = 0; e < EACH; e++) {
    if (low[e] < 0) continue;
    Pack<T, N> p, q;
    #pragma unroll
    for (int j = 0; j < N; j++) {
      float u = toFloat(a[e].v[j]), v = toFloat(b[e].v[j]), sine = s[e].v[j] * sign;
      p.v[j] = Store<T>::of(u * c[e].v[j] - v * sine);
      q.v[j] = Store<T>::of(v * c[e].v[j] + u * sine);
    }
    storePack(y + low[e], p);
    storePack(y + low[e] + half, q);
  }
}`,
});

/**
 * `gated`: silu(z) · up; `gatedGradient`: what of d, its gradient, goes to z and to up. By the approximate reciprocal, two units in the
 * last place of float32 off, of which bf16 shows next to nothing; where e^-z is beyond what float32 has, silu is zero as it should be.
 */
export const gatedActivation = /* cuda */ `
__device__ __forceinline__ float gated(float z, float up) { return __fdividef(z, 1.f + __expf(-z)) * up; }
__device__ __forceinline__ void gatedGradient(float& dGate, float& dUp, float d, float z, float up) {
  float s = __fdividef(1.f, 1.f + __expf(-z)), silu = z * s;
  dGate = d * up * (silu + s * (1.f - silu));
  dUp = d * silu;
}
`;

/** y = silu(gate) · up; where y's rows have gaps, which get zeros, columns are a multiple of 8. Args: y, gate, up, size, columns, y's stride. */
export const swiGluProgram = (gate: Format, up: Format, to: Format, size: number, columns: number): CudaProgram => ({
  key: `swiglu_${gate}_${up}_${to}_${columns % 8 === 0 ? 'rows' : 'flat'}`,
  entry: 'swiglu',
  grid: [ceilDiv(size, 256 * 8), 1, 1],
  block: [256, 1, 1],
  source: () => gatedActivation + /* cuda */ `
typedef ${formatType[gate]} A; typedef ${formatType[up]} B; typedef ${formatType[to]} T;
__device__ __forceinline__ T one(A a, B b) { return Store<T>::of(gated(toFloat(a), toFloat(b))); }
extern "C" __global__ void swiglu(T* y, const A* gate, const B* up, i64 size, int columns, int stride) {
  i64 at = ((i64)blockIdx.x * 256 + threadIdx.x) * 8;
  if (at + 8 <= size) {
    Pack<A, 8> a = loadPack<8>(gate + at); Pack<B, 8> b = loadPack<8>(up + at); Pack<T, 8> out;
    #pragma unroll
    for (int i = 0; i < 8; i++) out.v[i] = one(a.v[i], b.v[i]);
    ${columns % 8 === 0
      ? `u32 units = columns >> 3, row = (u32)(at >> 3) / units, unit = (u32)(at >> 3) % units; // fewer than 2^35 values
    y += (i64)row * stride;
    storePack(y + unit * 8, out);
    for (u32 zeros = unit; zeros < (u32)(stride - columns) >> 3; zeros += units) storePack(y + columns + zeros * 8, Pack<T, 8>{});`
      : 'storePack(y + at, out);'}
  } else for (; at < size; at++) y[at] = one(gate[at], up[at]);
}`,
});

/** dGate = dy·up·silu'(gate), dUp = dy·silu(gate); dUp may lie where dy does, in the same format. Args: dGate, dUp, dy, gate, up, size. */
export const swiGluGradProgram = (dy: Format, gate: Format, up: Format, size: number): CudaProgram => ({
  key: `swiglu_grad_${dy}_${gate}_${up}`,
  entry: 'swiglu_grad',
  grid: [ceilDiv(size, 256 * 8), 1, 1],
  block: [256, 1, 1],
  source: () => gatedActivation + /* cuda */ `
typedef ${formatType[dy]} G; typedef ${formatType[gate]} A; typedef ${formatType[up]} B;
__device__ __forceinline__ void one(A& dGate, B& dUp, G g, A a, B b) {
  float first, second;
  gatedGradient(first, second, toFloat(g), toFloat(a), toFloat(b));
  dGate = Store<A>::of(first);
  dUp = Store<B>::of(second);
}
extern "C" __global__ void swiglu_grad(A* dGate, B* dUp, const G* dy, const A* gate, const B* up, i64 size) {
  i64 at = ((i64)blockIdx.x * 256 + threadIdx.x) * 8;
  if (at + 8 <= size) {
    Pack<G, 8> g = loadPack<8>(dy + at); Pack<A, 8> a = loadPack<8>(gate + at), da; Pack<B, 8> b = loadPack<8>(up + at), db;
    #pragma unroll
    for (int i = 0; i < 8; i++) one(da.v[i], db.v[i], g.v[i], a.v[i], b.v[i]);
    storePack(dGate + at, da);
    storePack(dUp + at, db);
  } else for (; at < size; at++) one(dGate[at], dUp[at], dy[at], gate[at], up[at]);
}`,
});
