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

/** A frozen matrix, or one that is at hand. */
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

/** A matrix that a product takes. */
export interface WeightUse {
  weight: Matrix;
  /** For a quantised matrix that has room and is not kept: what its room is to hold, which is written with the values. */
  contents?: RoomContents;
  /** Whose data a copy made for this use stays with, for another product: see `heldCopy`. @default it lasts as long as the use */
  holder?: TensorInfo;
}

/**
 * Hands over the matrices of layers that share an input, in their order: several at a time where one product may take them; `use` is told
 * the first one's number. Copies may have room for `ROOM` more columns, as `makeRoomy` has; their stride then says so. Those that are made
 * at a time lie one after the other in memory, without gaps where each takes a multiple of 512 bytes.
 * @param rows of the input
 */
export function withMatrices(backend: CudaBackend, uses: readonly WeightUse[], rows: number, use: (matrices: MatrixOperand[], first: number) => void): void {
  const ready = uses[0].contents ? [] : atHand(backend, uses.map(({ weight }) => weight));
  const outs = uses.map(({ weight }) => (isAtHand(weight) ? weight.rows : weight.shape[0])), join = mayJoin(backend, outs, rows), meet = mayMeet(outs, rows);
  // What is multiplied together must not be chance, as is where values lie that were loaded, and results that were not made together.
  const kind = (i: number): string | number => (isPlain(uses[i].weight) || !join ? i : ready[i] ? 'ready' : !meet ? i : uses[i].holder ? 'held' : 'scratch');
  for (let first = 0, end = 1; first < uses.length; first = end++) {
    while (end < uses.length && kind(end) === kind(first)) end++;
    if (ready[first]) use(ready.slice(first, end) as MatrixOperand[], first);
    else withNewCopies(backend, uses.slice(first, end), (matrices) => use(matrices, first));
  }
}

/** What copies take at most, in times the layers' input: one that is held, and all that are there at a time. Of a short pass they would be the larger part. */
const HELD_WIDTHS = 2, JOINED_WIDTHS = 2.25;

/** Whether a matrix' copy may stay for the gradient, as far as memory goes. */
export const mayHold = ({ shape: [out] }: FrozenWeight, rows: number): boolean => out <= HELD_WIDTHS * rows;

/** Whether copies made for the occasion may be there at the same time, so that one product takes them. @param outs the matrices' rows */
const mayMeet = (outs: readonly number[], rows: number): boolean => outs.reduce((a, b) => a + b, 0) <= JOINED_WIDTHS * rows;

/** Whether one product may take such matrices, so that results and gradients should lie together; else places for them apart are easier to find. */
export const mayJoin = (backend: CudaBackend, outs: readonly number[], rows: number): boolean =>
  outs.length > 1 && (backend.keepDequantized !== 'never' || mayMeet(outs, rows));

/** The copy that `holder` was given when it was made: it stays as long as that tensor's data, for another product with the same matrix. */
export function heldCopy(backend: CudaBackend, weight: FrozenWeight, holder: TensorInfo): MatrixOperand | undefined {
  const block = backend.findCompanion(holder, HELD_COPY);
  return block && copyLayout(weight).at(block.address);
}

/** Hands the copy, where there is one, to another holder. */
export const passHeldCopy = (backend: CudaBackend, from: TensorInfo, to: TensorInfo): void => backend.moveCompanion(from, to, HELD_COPY);

/** Hands over a matrix that many products take, one after the other: values that are not quantised get a copy with room too, where copies may be kept. */
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

/** Whether `withMatrices` gives room. */
export const hasRoom = (weight: Matrix): boolean =>
  isAtHand(weight) ? (weight.stride ?? 0) > weight.columns : weight.kind !== 'dense' && !weight.resident && weight.shape[1] % DEQUANTIZED_TOGETHER === 0;

/** Matrices with room, all at a time; undefined where not all of them are kept. */
export function keptRoomyWeights(backend: CudaBackend, weights: readonly Matrix[]): MatrixOperand[] | undefined {
  const matrices = weights.every(hasRoom) ? atHand(backend, weights) : [];
  return weights.every((_, i) => matrices[i]) ? (matrices as MatrixOperand[]) : undefined;
}

/** Of each matrix what needs no copy for the occasion: itself, its own values, or a copy that is kept. */
function atHand(backend: CudaBackend, weights: readonly Matrix[]): (MatrixOperand | undefined)[] {
  keepTogether(backend, weights.filter((weight): weight is Nf4Weight | Int8Weight => !isAtHand(weight) && !isPlain(weight)));
  return weights.map((weight) => (isAtHand(weight) ? weight : (plainMatrix(backend, weight) ?? keptCopy(backend, weight as Nf4Weight | Int8Weight, hasRoom(weight)))));
}

/** Makes the copies of matrices of which none has one yet, one after the other in memory, where they may be kept. */
function keepTogether(backend: CudaBackend, weights: readonly (Nf4Weight | Int8Weight)[]): void {
  if (weights.length < 2 || new Set(weights.map(({ codes }) => codes.dataId)).size < weights.length) return;
  const all = weights.map(({ codes }) => codes), layouts = weights.map((weight) => copyLayout(weight)), [{ name }] = layouts; // of one width, so all with room or none
  if (all.some((codes) => backend.findCompanion(codes, name)) || !maySpend(backend, layouts.reduce((sum, { bytes }) => sum + bytes, 0))) return;
  const blocks = backend.newCompanions(all, name, layouts.map(({ bytes }) => bytes));
  weights.forEach((weight, i) => dequantizeInto(backend, weight, blocks[i].address, 'bf16', layouts[i].stride));
}

interface CopyLayout {
  stride: number;
  bytes: number;
  /** Of the companion that a kept copy is. */
  name: string;
  /** The copy at an address. */
  at: (address: number) => MatrixOperand;
}

function copyLayout(weight: FrozenWeight, roomy = hasRoom(weight)): CopyLayout {
  const [rows, columns] = weight.shape, stride = roomy ? roomyPitch(columns) : columns;
  return { stride, bytes: 2 * rows * stride, name: roomy ? ROOMY_COPY : COPY, at: (address) => ({ address, format: 'bf16', rows, columns, stride }) };
}

/** Values that are there in full. */
const plainValues = (weight: FrozenWeight) => (weight.kind === 'dense' ? weight.value : weight.resident);

const isPlain = (weight: Matrix): boolean => !isAtHand(weight) && plainValues(weight) !== undefined;

function plainMatrix(backend: CudaBackend, weight: FrozenWeight): MatrixOperand | undefined {
  const plain = plainValues(weight);
  if (!plain) return undefined;
  // Products take bf16 operands, so float32 values would only be rounded anew each time.
  backend.convert(plain, 'bf16');
  return copyLayout(weight, false).at(backend.address(plain));
}

function withCopy<T>(backend: CudaBackend, weight: FrozenWeight, roomy: boolean, use: (matrix: MatrixOperand) => T): T {
  const ready = plainMatrix(backend, weight) ?? keptCopy(backend, weight as Nf4Weight | Int8Weight, roomy);
  if (ready) return use(ready);
  const { stride, bytes, at } = copyLayout(weight, roomy);
  return backend.scratch(bytes, `a dequantised matrix [${weight.shape}]`, (address) => {
    dequantizeInto(backend, weight as Nf4Weight | Int8Weight, address, 'bf16', stride);
    return use(at(address));
  });
}

/** Copies for the occasion, one after the other in memory. Either all have a holder or none. */
function withNewCopies(backend: CudaBackend, uses: readonly WeightUse[], use: (matrices: MatrixOperand[]) => void): void {
  const weights = uses.map(({ weight }) => weight as Nf4Weight | Int8Weight), layouts = weights.map((weight) => copyLayout(weight)), bytes = layouts.map((layout) => layout.bytes);
  const fill = (addresses: readonly number[]): void => {
    weights.forEach((weight, i) => dequantizeInto(backend, weight, addresses[i], 'bf16', layouts[i].stride, uses[i].contents));
    use(layouts.map(({ at }, i) => at(addresses[i])));
  };
  const holders = uses.flatMap(({ holder }) => holder ?? []);
  if (holders.length > 0) fill(backend.newCompanions(holders, HELD_COPY, bytes).map(({ address }) => address));
  else backend.scratchTogether(bytes, `a dequantised matrix [${weights.map(({ shape }) => shape).join('], [')}]`, fill);
}

/** The copy that is kept, made where it may be; undefined where it may not. */
function keptCopy(backend: CudaBackend, weight: Nf4Weight | Int8Weight, roomy: boolean): MatrixOperand | undefined {
  const { stride, bytes, name, at } = copyLayout(weight, roomy);
  if (!backend.findCompanion(weight.codes, name) && !maySpend(backend, bytes)) return undefined;
  return at(backend.companion(weight.codes, name, bytes, ({ address }) => dequantizeInto(backend, weight, address, 'bf16', stride)).address);
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
