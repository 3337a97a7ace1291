import { backend_util, util, type KernelConfig, type TensorInfo } from '@tensorflow/tfjs-core';
import { cudaKernel, type CudaBackend } from '../backend.js';
import type { Format } from '../program.js';
import { binaryProgram, castProgram, rangeProgram, selectProgram, unaryProgram } from '../programs/elementwise.cu.js';

type Unary = { x: TensorInfo };
type Binary = { a: TensorInfo; b: TensorInfo };

/** Where a kernel's output goes: as wide as its inputs, float32 whatever they are, or a truth value. */
type Result = 'same' | 'float' | 'bool';

const dtypeOf = (format: Format) => (format === 'i32' ? 'int32' : format === 'u8' ? 'bool' : 'float32');

/** C++ expressions of x. */
const unary: Record<string, [expression: string, result: Result]> = {
  Abs: ['x < 0 ? -x : x', 'same'], Neg: ['-x', 'same'], Sign: ['x > 0 ? 1 : x < 0 ? -1 : 0', 'same'], Square: ['x * x', 'same'],
  Sqrt: ['sqrtf(x)', 'float'], Rsqrt: ['1.f / sqrtf(x)', 'float'], Reciprocal: ['1.f / x', 'float'], Exp: ['expf(x)', 'float'], Expm1: ['expm1f(x)', 'float'],
  Log: ['logf(x)', 'float'], Log1p: ['log1pf(x)', 'float'], Sigmoid: ['1.f / (1.f + expf(-x))', 'float'], Tanh: ['tanhf(x)', 'float'], Sin: ['sinf(x)', 'float'],
  Cos: ['cosf(x)', 'float'], Erf: ['erff(x)', 'float'], Softplus: ['x > 20.f ? x : log1pf(expf(x))', 'float'], Relu: ['x > 0 ? x : (x != x ? x : 0)', 'same'],
  Floor: ['floorf(x)', 'float'], Ceil: ['ceilf(x)', 'float'], Round: ['rintf(x)', 'float'],
  IsNan: ['x != x', 'bool'], IsFinite: ['fabsf(x) < INFINITY_F', 'bool'], IsInf: ['fabsf(x) == INFINITY_F', 'bool'], LogicalNot: ['x == 0', 'bool'],
};

/** C++ expressions of a and b; both are int when both tensors are int32, else float. */
const binary: Record<string, [expression: string, result: Result]> = {
  Add: ['a + b', 'same'], Sub: ['a - b', 'same'], Multiply: ['a * b', 'same'], RealDiv: ['(float)a / (float)b', 'float'], Maximum: ['a > b || a != a ? a : b', 'same'],
  Minimum: ['a < b || a != a ? a : b', 'same'], SquaredDifference: ['(a - b) * (a - b)', 'same'], Pow: ['powf((float)a, (float)b)', 'same'],
  FloorDiv: ['floorf((float)a / (float)b)', 'same'], Mod: ['(float)a - floorf((float)a / (float)b) * (float)b', 'same'], Prelu: ['a >= 0 ? a : a * b', 'same'],
  Equal: ['a == b', 'bool'], NotEqual: ['a != b', 'bool'], Less: ['a < b', 'bool'], LessEqual: ['a <= b', 'bool'], Greater: ['a > b', 'bool'], GreaterEqual: ['a >= b', 'bool'],
  LogicalAnd: ['a != 0 && b != 0', 'bool'], LogicalOr: ['a != 0 || b != 0', 'bool'],
};

/** One elementwise kernel on a tensor. @param parameters p0 and p1 of the expression */
export function applyUnary(backend: CudaBackend, name: string, x: TensorInfo, to: Format, parameters: [number, number] = [0, 0], expression = unary[name][0]): TensorInfo {
  const size = util.sizeFromShape(x.shape);
  const out = backend.make(x.shape, dtypeOf(to), to, name);
  backend.launch(unaryProgram(name, expression, backend.format(x), to, size), [
    backend.pointer(out), backend.pointer(x), { i64: size }, { f32: parameters[0] }, { f32: parameters[1] },
  ]);
  return out;
}

/** One elementwise kernel on two tensors, broadcast against each other. */
export function applyBinary(backend: CudaBackend, name: string, a: TensorInfo, b: TensorInfo): TensorInfo {
  const [expression, result] = binary[name];
  const shape = backend_util.assertAndGetBroadcastShape(a.shape, b.shape);
  const size = util.sizeFromShape(shape);
  const to = resultFormat(backend, result, a, b);
  const out = backend.make(shape, dtypeOf(to), to, name);
  const [fa, fb] = [backend.format(a), backend.format(b)];
  const [sizeA, sizeB] = [util.sizeFromShape(a.shape), util.sizeFromShape(b.shape)];
  const scalar = sizeA === size && sizeB === size ? undefined : sizeB === 1 ? 'b' : sizeA === 1 ? 'a' : undefined;
  if (scalar || (sizeA === size && sizeB === size)) {
    const known = scalar && backend.knownScalar(scalar === 'a' ? a : b);
    const address = (info: TensorInfo, side: 'a' | 'b') => (scalar === side && known !== undefined ? { pointer: 0 } : backend.pointer(info));
    backend.launch(binaryProgram(name, expression, fa, fb, to, { size, scalar }), [backend.pointer(out), address(a, 'a'), address(b, 'b'), { i64: size }, { f32: known ?? 0 }]);
    return out;
  }
  const broadcast = { shape, a: broadcastStrides(a.shape, shape), b: broadcastStrides(b.shape, shape) };
  backend.launch(binaryProgram(name, expression, fa, fb, to, { size, broadcast }), [
    backend.pointer(out), backend.pointer(a), backend.pointer(b), { i64: size }, { f32: 0 }, ...broadcast.shape, ...broadcast.a, ...broadcast.b,
  ]);
  return out;
}

/** Strides of a contiguous tensor read under a larger shape: 0 where it is repeated. */
export function broadcastStrides(shape: readonly number[], to: readonly number[]): number[] {
  const strides = new Array<number>(to.length).fill(0);
  let stride = 1;
  for (let i = 1; i <= shape.length; i++) {
    const size = shape[shape.length - i];
    strides[to.length - i] = size === 1 ? 0 : stride;
    stride *= size;
  }
  return strides;
}

/** bf16 stays bf16 unless a float32 tensor joins it; a single float32 value does not widen a tensor. */
function resultFormat(backend: CudaBackend, result: Result, ...infos: TensorInfo[]): Format {
  if (result === 'bool') return 'u8';
  const large = infos.filter(({ shape }) => util.sizeFromShape(shape) > 1);
  const formats = (large.length > 0 ? large : infos).map((info) => backend.format(info));
  const all = infos.map((info) => backend.format(info));
  if (result === 'same' && all.every((format) => format === 'i32')) return 'i32';
  if (result === 'same' && all.every((format) => format === 'u8')) return infos.length === 1 ? 'u8' : 'f32';
  return formats.every((format) => format === 'bf16') ? 'bf16' : 'f32';
}

export const elementwiseKernels: KernelConfig[] = [
  ...Object.entries(unary).map(([name, [, result]]) =>
    cudaKernel<Unary>(name, ({ inputs: { x }, backend }) => applyUnary(backend, name, x, resultFormat(backend, result, x)))),
  ...Object.keys(binary).map((name) => cudaKernel<Binary>(name, ({ inputs: { a, b }, backend }) => applyBinary(backend, name, a, b))),
  cudaKernel<Record<string, TensorInfo>>('AddN', ({ inputs, backend }) => {
    const terms = Object.values(inputs);
    return terms.slice(1).reduce((sum, term, i) => {
      const next = applyBinary(backend, 'Add', sum, term);
      if (i > 0) backend.free(sum);
      return next;
    }, terms.length === 1 ? backend.view(terms[0], terms[0].shape) : terms[0]);
  }),
  cudaKernel<Unary, { clipValueMin: number; clipValueMax: number }>('ClipByValue', ({ inputs: { x }, attrs, backend }) =>
    applyUnary(backend, 'clip', x, backend.format(x), [attrs.clipValueMin, attrs.clipValueMax], 'x < p0 ? p0 : x > p1 ? p1 : x')),
  cudaKernel<Unary, { alpha: number }>('Step', ({ inputs: { x }, attrs, backend }) =>
    applyUnary(backend, 'step', x, backend.format(x), [attrs.alpha, 0], 'x != x ? x : x > 0 ? 1 : p0')),
  cudaKernel<Unary, { dtype: 'float32' | 'int32' | 'bool' }>('Cast', ({ inputs: { x }, attrs: { dtype }, backend }) => {
    const from = backend.format(x);
    // float32 to float32 keeps whatever stands for float32 here.
    if (dtype === x.dtype) return backend.view(x, x.shape);
    const to = dtype === 'int32' ? 'i32' : dtype === 'bool' ? 'u8' : 'f32';
    const out = backend.make(x.shape, dtype, to, 'Cast');
    const size = util.sizeFromShape(x.shape);
    backend.launch(castProgram(from, to, size), [backend.pointer(out), backend.pointer(x), { i64: size }, { f32: 0 }, { f32: 0 }]);
    return out;
  }),
  cudaKernel<{ condition: TensorInfo; t: TensorInfo; e: TensorInfo }>('Select', ({ inputs: { condition, t, e }, backend }) => {
    const shape = backend_util.assertAndGetBroadcastShape(t.shape, e.shape);
    const size = util.sizeFromShape(shape);
    const to = resultFormat(backend, 'same', t, e);
    const out = backend.make(shape, t.dtype, to, 'Select');
    // A condition of lower rank picks whole rows: tfjs aligns it with the first axes.
    const aligned = condition.shape.length < shape.length && condition.shape.length === 1 ? [...condition.shape, ...shape.slice(1).map(() => 1)] : condition.shape;
    backend.launch(selectProgram(backend.format(t), backend.format(e), to, shape.length, size), [
      backend.pointer(out), backend.pointer(condition), backend.pointer(t), backend.pointer(e), { i64: size },
      ...shape, ...broadcastStrides(aligned, shape), ...broadcastStrides(t.shape, shape), ...broadcastStrides(e.shape, shape),
    ]);
    return out;
  }),
  cudaKernel<object, { shape: number[]; value: number; dtype?: 'float32' | 'int32' | 'bool' }>('Fill', ({ attrs: { shape, value, dtype = 'float32' }, backend }) =>
    filled(backend, shape, dtype, value)),
  cudaKernel<Unary>('ZerosLike', ({ inputs: { x }, backend }) => filled(backend, x.shape, x.dtype as 'float32', 0)),
  cudaKernel<Unary>('OnesLike', ({ inputs: { x }, backend }) => filled(backend, x.shape, x.dtype as 'float32', 1)),
  cudaKernel<object, { start: number; stop: number; step: number; dtype: 'float32' | 'int32' }>('Range', ({ attrs: { start, stop, step, dtype }, backend }) => {
    const size = Math.max(0, Math.ceil((stop - start) / step));
    return sequence(backend, [size], dtype, start, step);
  }),
  cudaKernel<object, { start: number; stop: number; num: number }>('LinSpace', ({ attrs: { start, stop, num }, backend }) =>
    sequence(backend, [num], 'float32', start, num > 1 ? (stop - start) / (num - 1) : 0)),
];

const filled = (backend: CudaBackend, shape: number[], dtype: 'float32' | 'int32' | 'bool', value: number): TensorInfo => sequence(backend, shape, dtype, value, 0);

function sequence(backend: CudaBackend, shape: number[], dtype: 'float32' | 'int32' | 'bool', start: number, step: number): TensorInfo {
  const out = backend.make(shape, dtype, undefined, 'a constant');
  const size = util.sizeFromShape(shape);
  backend.launch(rangeProgram(backend.format(out), size), [backend.pointer(out), { i64: size }, { f32: start }, { f32: step }]);
  return out;
}
