import { util, type TensorInfo } from '@tensorflow/tfjs-core';
import type { FrozenWeight, Int8Weight, Nf4Weight } from '../tensor/weight-types.js';
import { roomyPitch, type CudaBackend } from './backend.js';
import type { MatrixOperand } from './cublas-lt.js';
import type { Format, KernelArgument } from './program.js';
import { DEQUANTIZED_TOGETHER, dequantizeInt8Program, dequantizeNf4Program } from './programs/dequantize.cu.js';
import { placeRowsProgram } from './programs/layout.cu.js';

/** Share of the device's memory that must stay free for another dequantised copy to be kept. */
const FREE_SHARE = 0.5;

/** Hands over a frozen matrix in bf16, its rows without gaps: its own values, a kept copy, or one that lasts as long as `use`. */
export const withWeight = <T>(backend: CudaBackend, weight: FrozenWeight, use: (matrix: MatrixOperand) => T): T => withCopy(backend, weight, false, use);

/** A frozen matrix, or one that `withRoomyWeight` has handed over. */
export type Matrix = FrozenWeight | MatrixOperand;
const isAtHand = (matrix: Matrix): matrix is MatrixOperand => 'address' in matrix;

/** What a branch puts behind the columns of its matrix. */
export interface RoomContents {
  /** Columns filled: B's, and zeros beside it. A multiple of 8. */
  columns: number;
  /** [rows, rank], float32. */
  b: TensorInfo;
  rank: number;
  /** B's first column. */
  from: number;
}

/** The same for a matrix whose copy may have room for `ROOM` more columns, as `makeRoomy` has; its stride then says so. @param holder see `heldCopy` */
export const withRoomyWeight = <T>(backend: CudaBackend, weight: Matrix, use: (matrix: MatrixOperand) => T, holder?: TensorInfo): T =>
  isAtHand(weight) ? use(weight) : withCopy(backend, weight, hasRoom(weight), use, { holder });

/** The same for a quantised matrix that has room and is not kept; what the room is to hold is written with the values. */
export const withFilledWeight = <T>(backend: CudaBackend, weight: Matrix, contents: RoomContents, use: (matrix: MatrixOperand) => T, holder?: TensorInfo): T =>
  withNewCopy(backend, weight as Nf4Weight | Int8Weight, true, use, { contents, holder });

/** The copy that `holder` was given when it was made: it stays as long as that tensor's data, for another product with the same matrix. */
export function heldCopy(backend: CudaBackend, weight: FrozenWeight, holder: TensorInfo): MatrixOperand | undefined {
  const block = backend.findCompanion(holder, HELD_COPY), [rows, columns] = weight.shape;
  return block && { address: block.address, format: 'bf16', rows, columns, stride: hasRoom(weight) ? roomyPitch(columns) : columns };
}

/** Hands the copy, where there is one, to another holder. */
export const passHeldCopy = (backend: CudaBackend, from: TensorInfo, to: TensorInfo): void => backend.moveCompanion(from, to, HELD_COPY);

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

function withCopy<T>(backend: CudaBackend, weight: FrozenWeight, roomy: boolean, use: (matrix: MatrixOperand) => T, options: NewCopy = {}): T {
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
  return kept ? use(kept) : withNewCopy(backend, quantized, roomy, use, options);
}

interface NewCopy {
  contents?: RoomContents;
  /** The copy stays with this tensor's data. @default it lasts as long as its use */
  holder?: TensorInfo;
}

function withNewCopy<T>(backend: CudaBackend, weight: Nf4Weight | Int8Weight, roomy: boolean, use: (matrix: MatrixOperand) => T, { contents, holder }: NewCopy): T {
  const [rows, columns] = weight.shape, stride = roomy ? roomyPitch(columns) : columns, bytes = 2 * rows * stride;
  const write = (address: number): void => dequantizeInto(backend, weight, address, 'bf16', stride, contents);
  const operand = (address: number): MatrixOperand => ({ address, format: 'bf16', rows, columns, stride });
  if (holder) return use(operand(backend.companion(holder, HELD_COPY, bytes, ({ address }) => write(address)).address));
  return backend.scratch(bytes, `a dequantised matrix [${rows},${columns}]`, (address) => {
    write(address);
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
const HELD_COPY = 'a dequantised matrix, for the gradient too';
const ROOMY_COPY = `${COPY}, with room at the ends of its rows`;
const ROOMY_VALUES = 'a matrix in bf16 with room at the ends of its rows';

function maySpend(backend: CudaBackend, bytes: number): boolean {
  if (backend.keepDequantized !== 'auto') return backend.keepDequantized === 'always';
  const { free, total } = backend.device.memoryInfo();
  return free - bytes >= total * FREE_SHARE;
}

/**
 * Writes the values that the codes stand for.
 * @param stride from one row to the next; other than the columns only where these are a multiple of `DEQUANTIZED_TOGETHER`
 * @param contents of the room at the ends of the rows @default left as it is
 */
export function dequantizeInto(backend: CudaBackend, weight: Nf4Weight | Int8Weight, address: number, to: Format, stride = weight.shape[1], contents?: RoomContents): void {
  const size = util.sizeFromShape(weight.shape), [rows, columns] = weight.shape;
  const out = { pointer: address }, layout: KernelArgument[] = [{ i64: size }, { i64: columns }, { i64: stride - columns }];
  const placed = { rows: contents ? rows : 0, room: contents?.columns ?? 0 };
  backend.with('f32', contents ? [contents.b] : [], (b) => {
    const room: KernelArgument[] = contents ? [contents.columns, backend.pointer(b), contents.rank, contents.from] : [0, { pointer: 0 }, 0, 0];
    if (weight.kind === 'int8') {
      backend.launch(dequantizeInt8Program(to, size, placed), [out, backend.pointer(weight.codes), backend.pointer(weight.absmax), ...layout, ...room]);
      return;
    }
    const { absmax } = weight;
    backend.launch(dequantizeNf4Program(to, size, placed), [
      out, backend.pointer(weight.codes), backend.pointer(absmax.nested ? absmax.absmax : absmax.values), absmax.nested ? backend.pointer(absmax.codes) : { pointer: 0 },
      { f32: absmax.nested ? absmax.offset : 0 }, ...layout, ...room,
    ]);
  });
}
