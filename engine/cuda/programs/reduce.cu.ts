/* Reductions over the last axis of [rows, columns], float32 sums in a fixed order; bound by memory bandwidth. A warp a short row, a block a long one. */
import { ceilDiv, formatType, type CudaProgram, type Format } from '../program.js';

export type Reduction = 'sum' | 'max' | 'min' | 'prod' | 'all' | 'any';

const start: Record<Reduction, string> = { sum: '0.f', max: '-INFINITY_F', min: 'INFINITY_F', prod: '1.f', all: '1.f', any: '0.f' };
const combine: Record<Reduction, string> = { sum: 'a + b', max: 'fmaxf(a, b)', min: 'fminf(a, b)', prod: 'a * b', all: '(a != 0.f && b != 0.f) ? 1.f : 0.f', any: '(a != 0.f || b != 0.f) ? 1.f : 0.f' };

const SHORT_ROW = 1024;
const threadsFor = (columns: number) => (columns <= SHORT_ROW ? 32 : 512);

/** Args: out, in, rows, columns, factor. */
export const reduceProgram = (reduction: Reduction, from: Format, to: Format, rows: number, columns: number): CudaProgram => {
  const threads = threadsFor(columns), perBlock = threads === 32 ? 8 : 1;
  return {
    key: `reduce_${reduction}_${from}_${to}_${threads}`,
    entry: 'reduce',
    grid: [ceilDiv(rows, perBlock), 1, 1],
    block: [threads, perBlock, 1],
    source: () => /* cuda */ `
// Integers are summed as integers: float has 24 bits.
typedef ${from === 'i32' && reduction !== 'prod' ? 'int' : 'float'} Value;
__device__ __forceinline__ Value both(Value a, Value b) { return ${from === 'i32' ? ({ sum: 'a + b', max: 'max(a, b)', min: 'min(a, b)', prod: 'a * b', all: '(int)(a && b)', any: '(int)(a || b)' })[reduction] : combine[reduction]}; }
extern "C" __global__ void reduce(${formatType[to]}* out, const ${formatType[from]}* in, i64 rows, i64 columns, float factor) {
  i64 row = (i64)blockIdx.x * ${perBlock} + threadIdx.y;
  if (row >= rows) return;
  const ${formatType[from]}* x = in + row * columns;
  Value value = ${from === 'i32' ? ({ sum: '0', max: '(int)0x80000000', min: '0x7fffffff', prod: '1', all: '1', any: '0' })[reduction] : start[reduction]};
  for (i64 i = threadIdx.x; i < columns; i += ${threads}) value = both(value, ${from === 'i32' ? 'x[i]' : 'toFloat(x[i])'});
  #pragma unroll
  for (int i = 16; i; i >>= 1) value = both(value, __shfl_xor_sync(0xffffffffu, value, i));
  ${threads === 32 ? '' : `__shared__ Value parts[${threads / 32}];
  if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = value;
  __syncthreads();
  value = parts[0];
  for (int i = 1; i < ${threads / 32}; i++) value = both(value, parts[i]);`}
  if (threadIdx.x == 0) out[row] = ${to === 'i32' && from === 'i32' ? '(int)value' : to === 'u8' ? '(u8)(value != 0)' : `Store<${formatType[to]}>::of((float)value * factor)`};
}`,
  };
};

/** Index of the largest (or smallest) value of each row, the first of equals. Args: out, in, rows, columns. */
export const argReduceProgram = (kind: 'max' | 'min', from: Format, rows: number, columns: number): CudaProgram => {
  const threads = threadsFor(columns), perBlock = threads === 32 ? 8 : 1;
  return {
    key: `arg_${kind}_${from}_${threads}`,
    entry: 'arg_reduce',
    grid: [ceilDiv(rows, perBlock), 1, 1],
    block: [threads, perBlock, 1],
    source: () => /* cuda */ `
struct Best { float value; int index; };
__device__ __forceinline__ Best better(Best a, Best b) { bool first = ${kind === 'max' ? 'b.value > a.value' : 'b.value < a.value'} || (b.value == a.value && b.index < a.index); return first ? b : a; }
extern "C" __global__ void arg_reduce(int* out, const ${formatType[from]}* in, i64 rows, i64 columns) {
  i64 row = (i64)blockIdx.x * ${perBlock} + threadIdx.y;
  if (row >= rows) return;
  const ${formatType[from]}* x = in + row * columns;
  Best best = { ${kind === 'max' ? '-INFINITY_F' : 'INFINITY_F'}, 0x7fffffff };
  for (i64 i = threadIdx.x; i < columns; i += ${threads}) best = better(best, Best{ toFloat(x[i]), (int)i });
  #pragma unroll
  for (int i = 16; i; i >>= 1) best = better(best, Best{ __shfl_xor_sync(0xffffffffu, best.value, i), __shfl_xor_sync(0xffffffffu, best.index, i) });
  ${threads === 32 ? '' : `__shared__ Best parts[${threads / 32}];
  if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = best;
  __syncthreads();
  best = parts[0];
  for (int i = 1; i < ${threads / 32}; i++) best = better(best, parts[i]);`}
  if (threadIdx.x == 0) out[row] = best.index == 0x7fffffff ? 0 : best.index;
}`,
  };
};

/** Softmax (or its logarithm) of each row, a block a row. Args: out, in, columns. */
export const softmaxProgram = (log: boolean, from: Format, to: Format, rows: number): CudaProgram => ({
  key: `softmax_${log ? 'log_' : ''}${from}_${to}`,
  entry: 'softmax',
  grid: [rows, 1, 1],
  block: [256, 1, 1],
  source: () => /* cuda */ `
extern "C" __global__ void softmax(${formatType[to]}* out, const ${formatType[from]}* in, i64 columns) {
  const ${formatType[from]}* x = in + blockIdx.x * columns; ${formatType[to]}* y = out + blockIdx.x * columns;
  float high = -INFINITY_F, sum = 0.f;
  for (i64 i = threadIdx.x; i < columns; i += 256) high = fmaxf(high, toFloat(x[i]));
  high = blockMax(high);
  for (i64 i = threadIdx.x; i < columns; i += 256) sum += expf(toFloat(x[i]) - high);
  sum = blockSum(sum);
  ${log ? 'float less = high + logf(sum);' : 'float factor = 1.f / sum;'}
  for (i64 i = threadIdx.x; i < columns; i += 256) y[i] = Store<${formatType[to]}>::of(${log ? 'toFloat(x[i]) - less' : 'expf(toFloat(x[i]) - high) * factor'});
}`,
});

/** Running sum along the last axis, a thread a row. Args: out, in, rows, columns, exclusive, reverse. */
export const cumulativeSumProgram = (from: Format, to: Format, rows: number): CudaProgram => ({
  key: `cumulative_sum_${from}_${to}`,
  entry: 'cumulative_sum',
  grid: [ceilDiv(rows, 128), 1, 1],
  block: [128, 1, 1],
  source: () => /* cuda */ `
extern "C" __global__ void cumulative_sum(${formatType[to]}* out, const ${formatType[from]}* in, i64 rows, i64 columns, int exclusive, int reverse) {
  i64 row = (i64)blockIdx.x * 128 + threadIdx.x;
  if (row >= rows) return;
  ${from === 'i32' ? 'int' : 'float'} sum = 0;
  for (i64 j = 0; j < columns; j++) {
    i64 i = row * columns + (reverse ? columns - 1 - j : j);
    if (exclusive) { out[i] = ${to === 'i32' ? '(int)sum' : `Store<${formatType[to]}>::of((float)sum)`}; sum += ${from === 'i32' ? 'in[i]' : 'toFloat(in[i])'}; }
    else { sum += ${from === 'i32' ? 'in[i]' : 'toFloat(in[i])'}; out[i] = ${to === 'i32' ? '(int)sum' : `Store<${formatType[to]}>::of((float)sum)`}; }
  }
}`,
});
