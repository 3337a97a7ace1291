import { util } from '@tensorflow/tfjs-core';
import type { FrozenWeight, Int8Weight, Nf4Weight } from '../tensor/weight-types.js';
import { roomyPitch, type CudaBackend } from './backend.js';
import type { MatrixOperand } from './cublas-lt.js';
import type { Format } from './program.js';
import { DEQUANTIZED_TOGETHER, dequantizeInt8Program, dequantizeNf4Program } from './programs/dequantize.cu.js';
import { placeRowsProgram } from './programs/layout.cu.js';

/** Share of the device's memory that must stay free for another dequantised copy to be kept. */
const FREE_SHARE = 0.5;

/** Hands over a frozen matrix in bf16, its rows without gaps: its own values, a kept copy, or one that lasts as long as `use`. */
export const withWeight = <T>(backend: CudaBackend, weight: FrozenWeight, use: (matrix: MatrixOperand) => T): T => withCopy(backend, weight, false, use);

/** A frozen matrix, or one that `withRoomyWeight` has handed over. */
export type Matrix = FrozenWeight | MatrixOperand;
const isAtHand = (matrix: Matrix): matrix is MatrixOperand => 'address' in matrix;

/** The same for a matrix whose copy may have room for `ROOM` more columns, as `makeRoomy` has; its stride then says so. */
export const withRoomyWeight = <T>(backend: CudaBackend, weight: Matrix, use: (matrix: MatrixOperand) => T): T =>
  isAtHand(weight) ? use(weight) : withCopy(backend, weight, hasRoom(weight), use);

/** The same for a matrix that many products take, one after the other: values that are not quantised get a copy with room too, where copies may be kept. */
export function withLastingRoom<T>(backend: CudaBackend, weight: FrozenWeight, use: (matrix: MatrixOperand) => T): T {
  return withCopy(backend, weight, hasRoom(weight), (matrix) => {
    const plain = plainValues(weight), bytes = 2 * matrix.rows * roomyPitch(matrix.columns);
    if (!plain || matrix.columns % 8 !== 0 || (!backend.findCompanion(plain, ROOMY_VALUES) && !maySpend(backend, bytes))) return use(matrix);
    const stride = roomyPitch(matrix.columns), size = matrix.rows * matrix.columns;
    const { address } = backend.companion(plain, ROOMY_VALUES, bytes, (block) =>
      backend.launch(placeRowsProgram('bf16', size), [{ pointer: block.address }, { pointer: matrix.address }, { i64: size }, { i64: matrix.columns }, { i64: stride }, { i64: 0 }]));
    return use({ ...matrix, address, stride });
  });
}

/** Whether `withRoomyWeight` gives room. */
export const hasRoom = (weight: Matrix): boolean =>
  isAtHand(weight) ? (weight.stride ?? 0) > weight.columns : weight.kind !== 'dense' && !weight.resident && weight.shape[1] % DEQUANTIZED_TOGETHER === 0;

/** Matrices with room, all at a time; undefined where not all of them are kept. */
export function keptRoomyWeights(backend: CudaBackend, weights: readonly Matrix[]): MatrixOperand[] | undefined {
  const matrices = weights.map((weight) => (isAtHand(weight) ? weight : hasRoom(weight) ? keptCopy(backend, weight as Nf4Weight | Int8Weight, true) : undefined));
  return matrices.every((matrix) => matrix !== undefined) ? matrices : undefined;
}

function withCopy<T>(backend: CudaBackend, weight: FrozenWeight, roomy: boolean, use: (matrix: MatrixOperand) => T): T {
  const [rows, columns] = weight.shape, stride = roomy ? roomyPitch(columns) : columns;
  const operand = (address: number): MatrixOperand => ({ address, format: 'bf16', rows, columns, stride });
  const plain = plainValues(weight);
  if (plain) {
    // Products take bf16 operands, so float32 values would only be rounded anew each time.
    backend.convert(plain, 'bf16');
    return use({ ...operand(backend.address(plain)), stride: columns });
  }
  const quantized = weight as Nf4Weight | Int8Weight;
  const kept = keptCopy(backend, quantized, roomy);
  if (kept) return use(kept);
  return backend.scratch(2 * rows * stride, `a dequantised matrix [${rows},${columns}]`, (address) => {
    dequantizeInto(backend, quantized, address, 'bf16', stride);
    return use(operand(address));
  });
}

/** Values that are there in full. */
const plainValues = (weight: FrozenWeight) => (weight.kind === 'dense' ? weight.value : weight.resident);

/** The copy that is kept, made where it may be; undefined where it may not. */
function keptCopy(backend: CudaBackend, weight: Nf4Weight | Int8Weight, roomy: boolean): MatrixOperand | undefined {
  const [rows, columns] = weight.shape, stride = roomy ? roomyPitch(columns) : columns, bytes = 2 * rows * stride, name = roomy ? ROOMY_COPY : COPY;
  if (!backend.findCompanion(weight.codes, name) && !maySpend(backend, bytes)) return undefined;
  const { address } = backend.companion(weight.codes, name, bytes, ({ address }) => dequantizeInto(backend, weight, address, 'bf16', stride));
  return { address, format: 'bf16', rows, columns, stride };
}

const COPY = 'the bf16 copy of a quantised matrix';
const ROOMY_COPY = `${COPY}, with room at the ends of its rows`;
const ROOMY_VALUES = 'a matrix in bf16 with room at the ends of its rows';

function maySpend(backend: CudaBackend, bytes: number): boolean {
  if (backend.keepDequantized !== 'auto') return backend.keepDequantized === 'always';
  const { free, total } = backend.device.memoryInfo();
  return free - bytes >= total * FREE_SHARE;
}

/** Writes the values that the codes stand for. @param stride from one row to the next; other than the columns only where these are a multiple of `DEQUANTIZED_TOGETHER` */
export function dequantizeInto(backend: CudaBackend, weight: Nf4Weight | Int8Weight, address: number, to: Format, stride = weight.shape[1]): void {
  const size = util.sizeFromShape(weight.shape), columns = { i64: weight.shape[1] };
  const out = { pointer: address }, gap = { i64: stride - weight.shape[1] };
  if (weight.kind === 'int8') {
    backend.launch(dequantizeInt8Program(to, size), [out, backend.pointer(weight.codes), backend.pointer(weight.absmax), { i64: size }, columns, gap]);
    return;
  }
  const { absmax } = weight;
  const scales = absmax.nested ? absmax.absmax : absmax.values;
  backend.launch(dequantizeNf4Program(to, size), [
    out, backend.pointer(weight.codes), backend.pointer(scales), absmax.nested ? backend.pointer(absmax.codes) : { pointer: 0 }, { f32: absmax.nested ? absmax.offset : 0 }, { i64: size }, columns, gap,
  ]);
}
