import { keep, tensor1d, tensor2d, util, type Tensor, type Tensor1D, type Tensor2D } from '@tensorflow/tfjs-core';
import { EngineError } from '../errors.js';
import { roundToBfloat16 } from '../quant/bfloat16.js';
import { dequantizeInt8, quantizeInt8, type Int8Matrix } from '../quant/int8.js';
import { dequantizeNf4, nf4Block, quantizeNf4, type Nf4Values } from '../quant/nf4.js';
import { nestedBlock, type NestedAbsmax } from '../quant/nested-absmax.js';
import { dequantizeInt8Native, dequantizeNf4Native } from './dequantize-native.js';
import { registerPortableKernel, runKernel } from './kernel.js';
import { isNative } from './tensorflow-native.js';
import type { FrozenWeight, Int8Weight, Nf4Weight, NestedTensors } from './weight-types.js';
import { fromWords, toWords } from './words.js';

export type { FrozenWeight, Int8Weight, Nf4Weight, NestedTensors } from './weight-types.js';

/** How the frozen base is stored. */
export type BaseDtype = { dtype: 'nf4'; doubleQuant: boolean } | { dtype: 'int8' } | { dtype: 'bf16' } | { dtype: 'f32' };

/** Kernel: no inputs, attrs { weight } → float32 [out, in]. */
export const Dequantize = 'TemperDequantize';
export interface DequantizeAttrs {
  weight: Nf4Weight | Int8Weight;
}

/**
 * Stores a matrix the way `base` says.
 * @param values row-major, finite; not kept
 * @param options.resident also keep the dequantised copy @default false
 */
export function freezeWeight(
  values: Float32Array,
  shape: [number, number],
  base: BaseDtype,
  options: { resident?: boolean } = {},
): FrozenWeight {
  const [rows, columns] = shape;
  if (values.length !== rows * columns) {
    throw new EngineError('internal', 'bad_shape', `freezeWeight: values: expected ${rows * columns} for [${rows},${columns}], got ${values.length}`);
  }
  const weight = store(values, [rows, columns], base);
  if (options.resident) keepDequantized(weight);
  return weight;
}

/** Keeps the dequantised copy of a quantised matrix, so that no product has to dequantise. The numbers are the same. */
export function keepDequantized(weight: FrozenWeight): void {
  if (weight.kind !== 'dense') weight.resident ??= keep(dequantize(weight));
}

/** The matrix in float32, to be disposed by the caller's tidy; of a dense or resident weight a second handle on the same data. */
export function dequantize(weight: FrozenWeight): Tensor2D {
  if (weight.kind === 'dense') return weight.value.clone();
  return weight.resident?.clone() ?? runKernel<Tensor2D>(Dequantize, {}, { weight } satisfies DequantizeAttrs);
}

/** Frees what `freezeWeight` stored. */
export function disposeWeight(weight: FrozenWeight): void {
  for (const tensor of tensorsOf(weight)) tensor.dispose();
}

/** Bytes that the stored form takes, the resident copy included. */
export const weightBytes = (weight: FrozenWeight): number => tensorsOf(weight).reduce((sum, { size }) => sum + 4 * size, 0);

function tensorsOf(weight: FrozenWeight): Tensor[] {
  const resident = [weight.resident, weight.rowSquares].filter((tensor) => tensor !== undefined);
  if (weight.kind === 'dense') return [weight.value, ...resident];
  if (weight.kind === 'int8') return [weight.codes, weight.absmax, ...resident];
  const scales = weight.absmax.nested ? [weight.absmax.codes, weight.absmax.absmax] : [weight.absmax.values];
  return [weight.codes, ...scales, ...resident];
}

function store(values: Float32Array, shape: [number, number], base: BaseDtype): FrozenWeight {
  switch (base.dtype) {
    case 'f32':
      return { kind: 'dense', shape, value: keep(tensor2d(values.slice(), shape)) };
    case 'bf16':
      return { kind: 'dense', shape, value: keep(tensor2d(roundToBfloat16(values), shape)) };
    case 'int8': {
      const { codes, absmax } = quantizeInt8(values, ...shape);
      return { kind: 'int8', shape, codes: keptWords(codes, 4), absmax: keep(tensor1d(absmax)) };
    }
    case 'nf4': {
      const { codes, absmax } = quantizeNf4(values, base);
      const scales = absmax instanceof Float32Array ? { nested: false as const, values: keep(tensor1d(absmax)) } : nestedTensors(absmax);
      return { kind: 'nf4', shape, codes: keptWords(codes, nf4Block / 2), absmax: scales };
    }
  }
}

const nestedTensors = ({ codes, absmax, offset }: NestedAbsmax): NestedTensors => ({
  nested: true,
  codes: keptWords(codes, nestedBlock),
  absmax: keep(tensor1d(absmax)),
  offset,
});

const keptWords = (bytes: Uint8Array | Int8Array, multiple: number): Tensor1D => keep(tensor1d(toWords(bytes, multiple), 'int32'));

registerPortableKernel<Record<string, never>, DequantizeAttrs>(Dequantize, (_inputs, { weight }) => {
  if (isNative()) return weight.kind === 'nf4' ? dequantizeNf4Native(weight) : dequantizeInt8Native(weight);
  return tensor2d(weight.kind === 'nf4' ? dequantizeNf4(readNf4(weight)) : dequantizeInt8(readInt8(weight)), weight.shape);
});

/** The stored form on typed arrays. */
function readNf4({ shape, codes, absmax }: Nf4Weight): Nf4Values {
  const count = util.sizeFromShape(shape);
  const blocks = Math.ceil(count / nf4Block);
  return {
    count,
    codes: fromWords(codes.dataSync<'int32'>(), Math.ceil(count / 2)),
    absmax: absmax.nested
      ? { codes: fromWords(absmax.codes.dataSync<'int32'>(), blocks), absmax: absmax.absmax.dataSync<'float32'>(), offset: absmax.offset }
      : absmax.values.dataSync<'float32'>(),
  };
}

function readInt8({ shape: [rows, columns], codes, absmax }: Int8Weight): Int8Matrix {
  const bytes = fromWords(codes.dataSync<'int32'>(), rows * columns);
  return { rows, columns, codes: new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length), absmax: absmax.dataSync<'float32'>() };
}
