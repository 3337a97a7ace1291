/*
 * Elementwise kernels: one value in, one out, bound by memory bandwidth. Eight neighbouring values a thread where both sides
 * are contiguous, one a thread where broadcasting makes addresses irregular.
 */
import { ceilDiv, formatType, type CudaProgram, type Format } from '../program.js';

const THREADS = 256;
const VALUES = 8;

const blocks = (size: number, each: number): [number, number, number] => [ceilDiv(size, THREADS * each), 1, 1];

/** Arithmetic on int32 stays in int, everything else is float. */
const register = (format: Format) => (format === 'i32' ? 'int' : 'float');
const read = (format: Format, value: string) => (format === 'i32' ? value : `toFloat(${value})`);
const write = (from: string, to: Format, value: string) => (from === 'int' && to === 'i32' ? value : from === 'int' && to === 'u8' ? `(u8)(${value} != 0)` : `Store<${formatType[to]}>::of((float)(${value}))`);

/** out[i] = expression of x = in[i]; parameters p0 and p1 are floats. Args: out, in, size, p0, p1. */
export const unaryProgram = (name: string, expression: string, from: Format, to: Format, size: number): CudaProgram => ({
  key: `unary_${name}_${from}_${to}`,
  entry: 'unary',
  grid: blocks(size, VALUES),
  block: [THREADS, 1, 1],
  source: () => /* cuda */ `
typedef ${formatType[from]} In; typedef ${formatType[to]} Out;
__device__ __forceinline__ Out apply(In v, float p0, float p1) { ${register(from)} x = ${read(from, 'v')}; auto y = ${expression}; return ${write(register(from), to, 'y')}; }
extern "C" __global__ void unary(Out* out, const In* in, i64 size, float p0, float p1) {
  i64 at = ((i64)blockIdx.x * ${THREADS} + threadIdx.x) * ${VALUES};
  if (at + ${VALUES} <= size) {
    Pack<In, ${VALUES}> x = loadPack<${VALUES}>(in + at); Pack<Out, ${VALUES}> y;
    #pragma unroll
    for (int i = 0; i < ${VALUES}; i++) y.v[i] = apply(x.v[i], p0, p1);
    storePack(out + at, y);
  } else for (; at < size; at++) out[at] = apply(in[at], p0, p1);
}`,
});

/** Args: out, in, size. */
export const castProgram = (from: Format, to: Format, size: number): CudaProgram => {
  // To int truncates toward zero, to bool asks for non-zero, as tfjs does.
  const expression = to === 'i32' && from !== 'i32' ? '(float)(int)x' : 'x';
  return unaryProgram('cast', expression, from, to, size);
};

const readScalar = (format: Format, pointer: string) => (format === 'i32' ? `*${pointer}` : `toFloat(*${pointer})`);

export interface BinaryShape {
  size: number;
  /** Output shape and the strides of a and b in it (0 where broadcast); absent when both are contiguous and of one shape. */
  broadcast?: { shape: number[]; a: number[]; b: number[] };
  /** One side is a scalar: by value when its pointer is null, else read from the device. */
  scalar?: 'a' | 'b';
}

/** out = expression of a and b. Args: out, a, b, size, scalar, then for a broadcast: shape, strides of a, strides of b. */
export const binaryProgram = (name: string, expression: string, a: Format, b: Format, to: Format, { size, broadcast, scalar }: BinaryShape): CudaProgram => {
  const type = a === 'i32' && b === 'i32' ? 'int' : 'float';
  const values = broadcast ? 1 : VALUES;
  const rank = broadcast?.shape.length ?? 0;
  const operand = (side: 'a' | 'b', format: Format, value: string) =>
    scalar === side ? `scalar` : type === 'int' ? value : read(format === 'i32' ? 'f32' : format, value);
  return {
    key: `binary_${name}_${a}_${b}_${to}_${broadcast ? `r${rank}` : scalar ? `s${scalar}` : 'same'}`,
    entry: 'binary',
    grid: blocks(size, values),
    block: [THREADS, 1, 1],
    source: () => /* cuda */ `
typedef ${formatType[a]} A; typedef ${formatType[b]} B; typedef ${formatType[to]} Out;
__device__ __forceinline__ Out apply(A va, B vb, ${type} scalar) {
  ${type} a = ${operand('a', a, 'va')}; ${type} b = ${operand('b', b, 'vb')};
  auto y = ${expression}; return ${write(type, to, 'y')};
}
extern "C" __global__ void binary(Out* out, const A* pa, const B* pb, i64 size, float known${Array.from({ length: 3 * rank }, (_, i) => `, int n${i}`).join('')}) {
  i64 at = ((i64)blockIdx.x * ${THREADS} + threadIdx.x) * ${values};
  ${type} scalar = ${scalar ? `p${scalar} ? (${type})${scalar === 'a' ? readScalar(a, 'pa') : readScalar(b, 'pb')} : (${type})known` : 'known'};
  ${broadcast
    ? `if (at >= size) return;
  i64 rest = at, ia = 0, ib = 0; int index;
  ${Array.from({ length: rank }, (_, i) => rank - 1 - i).map((d) => `index = (int)(rest % n${d}); rest /= n${d}; ia += (i64)index * n${rank + d}; ib += (i64)index * n${2 * rank + d};`).join('\n  ')}
  out[at] = apply(pa[ia], pb[ib], scalar);`
    : `if (at + ${VALUES} <= size) {
    Pack<A, ${VALUES}> x; Pack<B, ${VALUES}> z; Pack<Out, ${VALUES}> y;
    ${scalar === 'a' ? '' : `x = loadPack<${VALUES}>(pa + at);`} ${scalar === 'b' ? '' : `z = loadPack<${VALUES}>(pb + at);`}
    #pragma unroll
    for (int i = 0; i < ${VALUES}; i++) y.v[i] = apply(x.v[i], z.v[i], scalar);
    storePack(out + at, y);
  } else for (; at < size; at++) out[at] = apply(${scalar === 'a' ? 'A()' : 'pa[at]'}, ${scalar === 'b' ? 'B()' : 'pb[at]'}, scalar);`}
}`,
  };
};

/** out[i] = condition[i] ? a[i] : b[i], each broadcast to the output by strides. Args: out, condition, a, b, size, shape and strides. */
export const selectProgram = (a: Format, b: Format, to: Format, rank: number, size: number): CudaProgram => ({
  key: `select_${a}_${b}_${to}_r${rank}`,
  entry: 'select',
  grid: blocks(size, 1),
  block: [THREADS, 1, 1],
  source: () => /* cuda */ `
extern "C" __global__ void select(${formatType[to]}* out, const u8* condition, const ${formatType[a]}* pa, const ${formatType[b]}* pb, i64 size${Array.from({ length: 4 * rank }, (_, i) => `, int n${i}`).join('')}) {
  i64 at = (i64)blockIdx.x * ${THREADS} + threadIdx.x;
  if (at >= size) return;
  i64 rest = at, ic = 0, ia = 0, ib = 0; int index;
  ${Array.from({ length: rank }, (_, i) => rank - 1 - i).map((d) => `index = (int)(rest % n${d}); rest /= n${d}; ic += (i64)index * n${rank + d}; ia += (i64)index * n${2 * rank + d}; ib += (i64)index * n${3 * rank + d};`).join('\n  ')}
  out[at] = condition[ic] ? ${to === a ? 'pa[ia]' : `Store<${formatType[to]}>::of(toFloat(pa[ia]))`} : ${to === b ? 'pb[ib]' : `Store<${formatType[to]}>::of(toFloat(pb[ib]))`};
}`,
});

/** out[i] = value, or start + i · step. Args: out, size, start, step. */
export const rangeProgram = (to: Format, size: number): CudaProgram => ({
  key: `range_${to}`,
  entry: 'range',
  grid: blocks(size, 1),
  block: [THREADS, 1, 1],
  source: () => /* cuda */ `
extern "C" __global__ void range(${formatType[to]}* out, i64 size, float start, float step) {
  i64 at = (i64)blockIdx.x * ${THREADS} + threadIdx.x;
  if (at < size) out[at] = Store<${formatType[to]}>::of(start + (float)at * step);
}`,
});
