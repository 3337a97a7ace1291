import type { TensorInfo } from '@tensorflow/tfjs-core';
import { DROPOUT_SPAN, dropoutInflation } from '../tensor/dropout-rate.js';
import type { DropoutOptions } from '../tensor/lora.js';
import { ROOM, type CudaBackend } from './backend.js';
import { strideOf, type MatrixOperand, type Product } from './cublas-lt.js';
import { multiplyEach, multiplySum } from './joined-products.js';
import { ceilDiv, type CudaProgram, type KernelArgument } from './program.js';
import { swiGluGradProgram, swiGluProgram } from './programs/block-ops.cu.js';
import { dropoutAddProgram, dropoutArguments, dropoutProgram } from './programs/dropout.cu.js';
import { gatedLinearGradProgram } from './programs/gated-linear-grad.cu.js';
import {
  bitsPitch, inputBlocks, loraDownProgram, loraInputProgram, loraOutputProgram, loraSpreadProgram, loraSumProgram, MAX_RANK, MAX_RATE, MAX_TILES, outputBlocks, placeFactorsProgram, rankTiles,
} from './programs/lora.cu.js';
import { fitsNormedLinearGrad, normedLinearGradProgram } from './programs/normed-linear-grad.cu.js';
import { PART_COLUMNS } from './programs/part-blocks.js';
import { rmsNormGrad } from './rms-norm.js';
import { hasRoom, keptRoomyWeights, mayJoin, passHeldCopy, withMatrices, type Matrix, type RoomContents } from './weights.js';

/*
 * The low-rank branches beside the frozen products of layers that share an input. Tall matrices are bf16 and accumulated in float32;
 * the gradients of A and B are float32. Kernels of our own serve the usual shapes (rank up to 64, widths that are multiples of 8),
 * branches of one rank together; cublasLt serves all others, one by one.
 * `first` is the place of x's first element in the dropout stream, for callers that work through rows in chunks.
 */

/** A layer's branch: A [rank, inner], B [out, rank], and dropout on its input. */
export interface Branch {
  rank: number;
  inner: number;
  out: number;
  scale: number;
  dropout?: DropoutOptions;
}

/** The same for every kernel that a branch passes through: they hand each other bits and scaled values. */
const isFused = ({ rank, inner, out, dropout }: Branch, first: number): boolean =>
  rank <= MAX_RANK && inner % 8 === 0 && out % 8 === 0 && first % 8 === 0 && (dropout?.rate ?? 0) <= MAX_RATE;
const isDropping = ({ dropout }: Branch): boolean => dropout !== undefined && dropout.rate > 0;
/** What tells branches apart that one launch of a backward kernel cannot serve. */
const dropping = (branch: Branch): number => Number(isDropping(branch));
const inflation = ({ dropout }: Branch): number => (dropout ? dropoutInflation(dropout.rate) : 1);

/** Splits branches into those that one launch can take: of one key, and not more ranks than it has room for. */
function launches<T extends Branch>(branches: readonly T[], key: (branch: T) => string | number = () => ''): T[][] {
  const groups = new Map<string, T[][]>();
  for (const branch of branches) {
    const tiles = rankTiles(branch.rank), name = `${branch.rank} ${key(branch)}`;
    const lists = groups.get(name) ?? [];
    groups.set(name, lists);
    const last = lists.at(-1);
    if (last && (last.length + 1) * tiles <= MAX_TILES) last.push(branch);
    else lists.push([branch]);
  }
  return [...groups.values()].flat();
}

/** The keep bits of a branch's input, kept with the branch's low-rank tensor. */
const KEEP_BITS = "dropout's keep bits";

const drawArguments = (backend: CudaBackend, dropout?: DropoutOptions): KernelArgument[] => dropoutArguments(backend.recording?.drawCell ?? 0, dropout);

/** What tells branches apart that cannot draw in one launch. */
const draws = ({ dropout }: Branch): string => (dropout && dropout.rate > 0 ? `${dropout.rate} ${dropout.key.seed} ${dropout.key.step}` : '');

/** The halves of a gated activation, [n, in] bf16 without gaps. */
export interface Halves {
  gate: TensorInfo;
  up: TensorInfo;
}

/**
 * hidden [n, rank] = scale · dropout(x)·Aᵀ of each branch.
 * @param halves x is written first, as silu(gate)·up; a single launch does both where it serves every branch
 * @param place also writes it into the room at the ends of x's rows, one branch's columns after the other's: `fitsRoom`
 */
export function branchesDown(
  backend: CudaBackend, x: MatrixOperand, branches: readonly (Branch & { a: TensorInfo })[], { first = 0, place = false, halves }: { first?: number; place?: boolean; halves?: Halves } = {},
): TensorInfo[] {
  const making = halves && isOneLaunch(branches, draws) ? halves : undefined;
  if (halves && !making) {
    backend.launch(swiGluProgram('bf16', 'bf16', 'bf16', x.rows * x.columns, x.columns), [
      { pointer: x.address }, backend.pointer(halves.gate), backend.pointer(halves.up), { i64: x.rows * x.columns }, x.columns, strideOf(x),
    ]);
  }
  const hiddens = new Map(branches.map((branch) => [branch, backend.make([x.rows, branch.rank], 'float32', 'bf16', 'a LoRA branch')]));
  const fused = branches.filter((branch) => isFused(branch, first));
  for (const group of launches(fused, draws)) {
    const dropping = isDropping(group[0]);
    const whole = x.columns % DROPOUT_SPAN === 0 && (!dropping || first % DROPOUT_SPAN === 0);
    const [threshold, , step, , key0, key1, draw] = drawArguments(backend, group[0].dropout);
    backend.with('f32', group.map(({ a }) => a), (...factors) =>
      backend.launch(loraDownProgram({ rank: group[0].rank, members: group.length, dropout: dropping, whole, rows: x.rows, inner: x.columns, gated: making !== undefined }), [
        { pointer: x.address }, ...(making ? [backend.pointer(making.gate), backend.pointer(making.up)] : []), { i64: x.rows }, x.columns, strideOf(x), bitsPitch(x.columns), { i64: first }, threshold, step, key0, key1, draw,
        ...group.flatMap((branch, i): KernelArgument[] => {
          const hidden = hiddens.get(branch)!;
          // The backward pass reads the bits instead of drawing again; they go when the branch's tensor does.
          const bits = dropping ? backend.companion(hidden, KEEP_BITS, Math.max(1, x.rows * bitsPitch(x.columns)), () => undefined).address : 0;
          const room = place ? x.address + 2 * (x.columns + columnsBefore(branches, branch)) : 0;
          return [backend.pointer(hidden), { pointer: room }, { pointer: bits }, backend.pointer(factors[i]), { f32: branch.scale * (dropping ? inflation(branch) : 1) }, { u32: (branch.dropout?.key.stream ?? 0) >>> 0 }];
        }),
      ]));
  }
  for (const branch of branches) {
    if (fused.includes(branch)) continue;
    const out = backend.matrix(hiddens.get(branch)!, x.rows, branch.rank);
    withDropped(backend, x, branch, first, (input) =>
      backend.with('bf16', [branch.a], (a) => backend.multiply({ a: input, b: backend.matrix(a, ...shapeOf(a)), transposeB: true, out, alpha: branch.scale })));
  }
  return [...hiddens.values()];
}

/** Whether there are branches, and one launch of a fused kernel serves them all. */
const isOneLaunch = <T extends Branch>(branches: readonly T[], key: (branch: T) => string | number): boolean => takesRoomy(branches) && launches(branches, key).length === 1;

/** Whether the branches' kernels take an x whose rows have gaps. */
export const takesRoomy = (branches: readonly Branch[]): boolean => branches.every((branch) => isFused(branch, 0));

const columnsBefore = (branches: readonly Branch[], branch: Branch): number => branches.slice(0, branches.indexOf(branch)).reduce((sum, { rank }) => sum + rank, 0);

/** Whether x and the matrices have room for the branches at the ends of their rows: one product then does the branches' share too. */
export const fitsRoom = (x: MatrixOperand, branches: readonly Branch[], weights: readonly Matrix[]): boolean =>
  branches.length > 0 && strideOf(x) > x.columns && columnsOf(branches) <= ROOM && takesRoomy(branches) && branches.every(({ rank }) => rank % 8 === 0) && weights.every(hasRoom);
const columnsOf = (branches: readonly Branch[]): number => branches.reduce((sum, { rank }) => sum + rank, 0);

/** A layer's forward product. */
export interface LinearProduct {
  y: MatrixOperand;
  weight: Matrix;
  branch?: Branch & { b: TensorInfo; hidden: TensorInfo };
  /** [out], float32. */
  bias?: TensorInfo;
  /** Address of [n, out] bf16. */
  residual?: number;
  /** Who keeps the matrix' copy, where one is made for this product: see `heldCopy`. */
  holder?: TensorInfo;
}

/**
 * y [n, out] = x·Wᵀ + residual + hidden·Bᵀ + bias for each product. Our kernel writes all but the frozen product, which adds to it,
 * so that y is read and written once less. @returns the products whose bias is still to be added
 */
export function linears(backend: CudaBackend, x: MatrixOperand, products: readonly LinearProduct[], first = 0): LinearProduct[] {
  const spread = products.flatMap((product) => (product.branch && product.y.format === 'bf16' && isFused(product.branch, first) ? [{ ...product.branch, product }] : []));
  for (const group of launches(spread)) {
    backend.with('f32', group.map(({ b }) => b), (...factors) => {
      const width = Math.max(...group.map(({ out }) => out));
      backend.launch(loraSpreadProgram({ factor: 'b', rank: group[0].rank, members: group.length, rows: x.rows, width, mode: 'each' }), [
        { i64: x.rows }, 0,
        ...group.flatMap(({ hidden, product: { y, bias, residual = 0 } }, i): KernelArgument[] => [
          { pointer: y.address }, { pointer: residual }, bias ? backend.pointer(bias) : { pointer: 0 }, y.columns, backend.pointer(hidden), backend.pointer(factors[i]),
        ]),
      ]);
    });
  }
  const isWritten = (product: LinearProduct): boolean => spread.some((one) => one.product === product);
  withMatrices(backend, products, x.rows, (matrices, from) =>
    multiplyEach(backend, matrices.map((b, i): Product => {
      const product = products[from + i];
      return { a: x, b, transposeB: true, out: product.y, ...(isWritten(product) ? { beta: 1 } : addendOf(product.residual)) };
    })));
  for (const product of products) {
    const { y, branch } = product;
    if (!branch || isWritten(product)) continue;
    backend.with('bf16', [branch.hidden, branch.b], (low, b) =>
      backend.multiply({ a: backend.matrix(low, ...shapeOf(low)), b: backend.matrix(b, ...shapeOf(b)), transposeB: true, out: y, beta: 1 }));
  }
  return products.filter((product) => product.bias && !isWritten(product));
}

const addendOf = (residual: number | undefined): { beta?: number; addend?: number } => (residual ? { beta: 1, addend: residual } : {});

/**
 * The same for an x that has every branch's hidden in its room, and zeros beyond: each matrix gets its B beside it, zeros for the
 * others', and the product takes these columns along. @returns the products whose bias is still to be added
 */
export function roomyLinears(backend: CudaBackend, x: MatrixOperand, products: readonly LinearProduct[]): LinearProduct[] {
  const branches = products.flatMap(({ branch }) => (branch ? [branch] : []));
  const columns = Math.ceil((x.columns + columnsOf(branches)) / 64) * 64; // whole tiles for the product: beyond the branches there are zeros
  const room = columns - x.columns;
  const contents = products.map(({ branch }): RoomContents => ({
    columns: room, b: branch?.b ?? branches[0].b, rank: branch?.rank ?? 0, from: branch ? columnsBefore(branches, branch) : 0,
  }));
  const multiply = (matrices: readonly MatrixOperand[], from: number): void =>
    multiplyEach(backend, matrices.map((matrix, i): Product => {
      const { y, residual } = products[from + i];
      return { a: { ...x, columns }, b: { ...matrix, columns }, transposeB: true, out: y, ...addendOf(residual) };
    }));
  const kept = keptRoomyWeights(backend, products.map(({ weight }) => weight));
  if (kept) {
    backend.with('f32', contents.map(({ b }) => b), (...factors) =>
      backend.launch(placeFactorsProgram(kept.length, Math.max(...kept.map(({ rows }) => rows)), room), [
        x.columns, strideOf(kept[0]), room,
        ...kept.flatMap(({ address, rows }, i): KernelArgument[] => [{ pointer: address }, rows, backend.pointer(factors[i]), contents[i].rank, contents[i].from]),
      ]));
    withMatrices(backend, kept.map((weight) => ({ weight })), x.rows, multiply);
  } else withMatrices(backend, products.map(({ weight, holder }, i) => ({ weight, contents: contents[i], holder })), x.rows, multiply);
  return products.filter(({ bias }) => bias);
}

export interface BranchGradient extends Branch {
  /** [n, out], bf16. */
  dy: MatrixOperand;
  b: TensorInfo;
  /** [n, rank] of `branchesDown`. */
  hidden: TensorInfo;
  /** Written to, or added to when `accumulate`; float32. */
  dA: TensorInfo;
  dB: TensorInfo;
}

/** dA = dHiddenᵀ·dropout(x) and dB = dyᵀ·hidden of each branch. @returns dHidden [n, rank] = scale · dy·B of each, for `inputGradients` */
export function branchGradients(backend: CudaBackend, x: MatrixOperand, branches: readonly BranchGradient[], { first = 0, accumulate = false } = {}): TensorInfo[] {
  const dHiddens = new Map(branches.map((branch) => [branch, backend.make([x.rows, branch.rank], 'float32', 'bf16', "a LoRA branch's gradient")]));
  if (x.rows === 0) {
    if (!accumulate) for (const { dA, dB } of branches) for (const info of [dA, dB]) backend.device.fill(backend.address(info), 0, 4 * info.shape[0] * info.shape[1]);
    return [...dHiddens.values()];
  }
  for (const branch of branches) passHeldCopy(backend, branch.hidden, dHiddens.get(branch)!);
  const fused = branches.filter((branch) => isFused(branch, first));
  for (const group of launches(fused)) outputPass(backend, group, dHiddens, accumulate);
  for (const branch of fused) backend.moveCompanion(branch.hidden, dHiddens.get(branch)!, KEEP_BITS);
  for (const group of launches(fused, dropping)) inputPass(backend, x, group, dHiddens, accumulate);
  for (const branch of branches) {
    if (fused.includes(branch)) continue;
    const { dy, hidden, b, dA, dB, scale } = branch, dHidden = backend.matrix(dHiddens.get(branch)!, x.rows, branch.rank), beta = accumulate ? 1 : 0;
    backend.with('bf16', [b, hidden], (factor, low) => {
      backend.multiply({ a: dy, b: backend.matrix(factor, ...shapeOf(factor)), out: dHidden, alpha: scale });
      backend.multiply({ a: dy, transposeA: true, b: backend.matrix(low, ...shapeOf(low)), out: backend.matrix(dB, ...shapeOf(dB)), beta });
    });
    withDropped(backend, x, branch, first, (input) => backend.multiply({ a: dHidden, transposeA: true, b: input, out: backend.matrix(dA, ...shapeOf(dA)), beta }));
  }
  return [...dHiddens.values()];
}

/** dHidden and dB of branches of one rank, in one pass over each gradient. */
function outputPass(backend: CudaBackend, group: readonly BranchGradient[], dHiddens: ReadonlyMap<BranchGradient, TensorInfo>, accumulate: boolean): void {
  const { rows } = group[0].dy, rank = group[0].rank;
  const shape = { rank, members: group.length, rows, width: Math.max(...group.map(({ dy }) => dy.columns)) };
  const blocks = outputBlocks(shape), { rows: perBlock, rowBlocks } = blocks;
  const columnBlocks = ({ dy }: BranchGradient): number => ceilDiv(dy.columns, blocks.tiles * PART_COLUMNS);
  const sizes = group.map((branch) => ({ low: columnBlocks(branch) * rows * rank, b: rowBlocks * branch.dy.columns * rank }));
  backend.scratch(4 * sizes.reduce((sum, { low, b }) => sum + low + b, 0), 'parts of LoRA gradients', (start) => {
    let at = start;
    const places = sizes.map(({ low, b }) => ({ low: (at += 4 * low) - 4 * low, b: (at += 4 * b) - 4 * b }));
    backend.with('bf16', group.map(({ hidden }) => hidden), (...lows) =>
      backend.with('f32', group.map(({ b }) => b), (...factors) =>
        backend.launch(loraOutputProgram(shape, blocks), [
          { i64: rows }, perBlock,
          ...group.flatMap(({ dy }, i): KernelArgument[] => [
            { pointer: places[i].low }, { pointer: places[i].b }, { pointer: dy.address }, backend.pointer(lows[i]), backend.pointer(factors[i]), dy.columns, strideOf(dy),
          ]),
        ])));
    sum(backend, group.flatMap((branch, i): SumJob[] => [
      { out: dHiddens.get(branch)!, bf16: true, parts: places[i].low, size: rows * rank, count: columnBlocks(branch), scale: branch.scale * inflation(branch), accumulate: false },
      { out: branch.dB, bf16: false, parts: places[i].b, size: branch.dy.columns * rank, count: rowBlocks, scale: 1, accumulate },
    ]));
  });
}

/** dA of branches of one rank, in one pass over x. */
function inputPass(backend: CudaBackend, x: MatrixOperand, group: readonly BranchGradient[], dHiddens: ReadonlyMap<BranchGradient, TensorInfo>, accumulate: boolean): void {
  const { rows, columns: inner } = x, rank = group[0].rank;
  const shape = { rank, members: group.length, masked: isDropping(group[0]), rows, inner };
  const blocks = inputBlocks(shape), { rows: perBlock, rowBlocks } = blocks, size = rank * inner;
  backend.scratch(4 * group.length * rowBlocks * size, 'parts of LoRA gradients', (start) => {
    const parts = (i: number): number => start + 4 * i * rowBlocks * size;
    backend.launch(loraInputProgram(shape, blocks), [
      { pointer: x.address }, { i64: rows }, inner, strideOf(x), perBlock, bitsPitch(inner),
      ...group.flatMap((branch, i): KernelArgument[] => [{ pointer: parts(i) }, bitsOf(backend, dHiddens.get(branch)!), backend.pointer(dHiddens.get(branch)!)]),
    ]);
    sum(backend, group.map(({ dA }, i) => ({ out: dA, bf16: false, parts: parts(i), size, count: rowBlocks, scale: 1, accumulate })));
  });
}

interface SumJob {
  out: TensorInfo;
  bf16: boolean;
  parts: number;
  size: number;
  count: number;
  scale: number;
  accumulate: boolean;
}

const sum = (backend: CudaBackend, jobs: readonly SumJob[]): void =>
  backend.launch(loraSumProgram(jobs.map(({ bf16 }) => bf16), jobs.map(({ size }) => size)),
    jobs.flatMap(({ out, parts, size, count, scale, accumulate }): KernelArgument[] => [backend.pointer(out), { pointer: parts }, size, count, { f32: scale }, accumulate ? 1 : 0]));

const bitsOf = (backend: CudaBackend, low: TensorInfo): { pointer: number } => ({ pointer: backend.findCompanion(low, KEEP_BITS)?.address ?? 0 });

/** A layer's share of the gradient to x. */
export interface InputGradient {
  dy: MatrixOperand;
  weight: Matrix;
  branch?: Branch & { a: TensorInfo; dHidden: TensorInfo };
}

const withoutBranches = (members: readonly InputGradient[]): InputGradient[] => members.map((member) => ({ ...member, branch: undefined }));

/** Launches a kernel that adds the branches' shares: after its own arguments come dHidden, A and the keep bits of each. */
const launchWithBranches = (backend: CudaBackend, program: CudaProgram, own: readonly KernelArgument[], branches: readonly NonNullable<InputGradient['branch']>[]): void =>
  backend.with('f32', branches.map(({ a }) => a), (...factors) =>
    backend.launch(program, [
      ...own, ...branches.flatMap(({ dHidden }, i): KernelArgument[] => [backend.pointer(dHidden), backend.pointer(factors[i]), bitsOf(backend, dHidden)]),
    ]));

/** dx [n, in] = Σ dy·W + dropout(dHidden·A): the branches' sum is written first, and the products add to it. */
export function inputGradients(backend: CudaBackend, dx: MatrixOperand, members: readonly InputGradient[], first = 0): void {
  const { rows, columns: inner } = dx;
  const branches = members.flatMap(({ branch }) => (branch ? [branch] : []));
  const fused = branches.filter((branch) => isFused(branch, first));
  let written = false;
  for (const group of launches(fused, dropping)) {
    const shape = { factor: 'a' as const, rank: group[0].rank, members: group.length, rows, width: inner, mode: 'sum' as const, masked: isDropping(group[0]) };
    launchWithBranches(backend, loraSpreadProgram(shape), [{ i64: rows }, bitsPitch(inner), { pointer: dx.address }, { pointer: written ? dx.address : 0 }, inner], group);
    written = true;
  }
  withMatrices(backend, members, rows, (matrices, from) => {
    multiplySum(backend, matrices.map((b, i) => ({ a: members[from + i].dy, b })), dx, written ? 1 : 0);
    written = true;
  });
  for (const branch of branches) if (!fused.includes(branch)) addInputGradient(backend, dx, branch, first);
}

/**
 * The same for x = silu(gate)·up: [dGate, dUp], what of dx goes to gate and to up. The products are written first, where dUp will be, and
 * read by the kernel that adds the branches, which gives the two side by side, as the layers take them that made gate and up; with
 * branches that take several launches dx is whole before.
 */
export function gatedInputGradients(backend: CudaBackend, { gate, up }: Halves, members: readonly InputGradient[]): [TensorInfo, TensorInfo] {
  const [rows, inner] = shapeOf(gate), widths = [inner, inner], purpose = 'the gradient of a linear layer';
  const branches = members.flatMap(({ branch }) => (branch ? [branch] : [])), isOne = isOneLaunch(branches, dropping);
  const [dGate, dUp] = isOne && mayJoin(backend, widths, rows) ? backend.makeColumns(rows, widths, purpose) : widths.map((width) => backend.make([rows, width], 'float32', 'bf16', purpose));
  const dx = backend.rowsOf(dUp, rows, inner);
  inputGradients(backend, dx, isOne ? withoutBranches(members) : members);
  if (isOne) {
    launchWithBranches(backend, gatedLinearGradProgram({ rank: branches[0].rank, members: branches.length, rows, width: inner, masked: isDropping(branches[0]) }), [
      { i64: rows }, bitsPitch(inner), { pointer: backend.rowsOf(dGate, rows, inner).address }, { pointer: dx.address }, { pointer: dx.address },
      backend.pointer(gate), backend.pointer(up), inner, strideOf(dx),
    ], branches);
  } else {
    backend.launch(swiGluGradProgram('bf16', 'bf16', 'bf16', rows * inner), [
      backend.pointer(dGate), { pointer: dx.address }, { pointer: dx.address }, backend.pointer(gate), backend.pointer(up), { i64: rows * inner },
    ]);
  }
  return [dGate, dUp];
}

/** A stream [n, in], the norm [in] after which layers read it, and the gradient [n, in] that it has already. */
export interface NormedStream {
  x: TensorInfo;
  norm: TensorInfo;
  skip: TensorInfo;
  eps: number;
}

/**
 * The same for x that is a stream's norm: skip + what of dx goes to the stream. The products are written first, where the result will
 * be, and read by the kernel that adds the branches; with branches that take several launches, without any, in other formats, and where
 * a block has not the memory for whole rows, dx is whole before.
 */
export function normedInputGradient(backend: CudaBackend, { x, norm, skip, eps }: NormedStream, members: readonly InputGradient[]): TensorInfo {
  const [rows, inner] = shapeOf(x), branches = members.flatMap(({ branch }) => (branch ? [branch] : []));
  const dx = backend.make([rows, inner], 'float32', 'bf16', "a stream's gradient");
  if ([x, skip].every((one) => backend.format(one) === 'bf16') && isOneLaunch(branches, dropping)) {
    const shape = { rank: branches[0].rank, members: branches.length, rows, width: inner, masked: isDropping(branches[0]), norm: backend.format(norm) };
    if (fitsNormedLinearGrad(shape, backend.device.sharedLimit)) {
      inputGradients(backend, backend.matrix(dx, rows, inner), withoutBranches(members));
      launchWithBranches(backend, normedLinearGradProgram(shape), [
        { i64: rows }, bitsPitch(inner), backend.pointer(dx), backend.pointer(dx), backend.pointer(x), backend.pointer(norm), backend.pointer(skip), inner, { f32: eps },
      ], branches);
      return dx;
    }
  }
  inputGradients(backend, backend.matrix(dx, rows, inner), members);
  const result = rmsNormGrad(backend, { dy: dx, x, weight: norm, skip }, { eps });
  backend.free(dx);
  return result;
}

/** dx += dropout(dHidden·A). */
function addInputGradient(backend: CudaBackend, dx: MatrixOperand, branch: NonNullable<InputGradient['branch']>, first: number): void {
  const { a, dHidden, dropout } = branch;
  backend.with('bf16', [dHidden, a], (low, factor) => {
    const product = { a: backend.matrix(low, ...shapeOf(low)), b: backend.matrix(factor, ...shapeOf(factor)) };
    if (!isDropping(branch)) return backend.multiply({ ...product, out: dx, beta: 1 });
    const size = dx.rows * dx.columns;
    backend.scratch(2 * size, 'a branch before dropout', (address) => {
      backend.multiply({ ...product, out: { ...dx, address } });
      backend.launch(dropoutAddProgram(size), [{ pointer: dx.address }, { pointer: address }, { i64: size }, { i64: first }, ...drawArguments(backend, dropout)]);
    });
  });
}

function withDropped(backend: CudaBackend, x: MatrixOperand, branch: Branch, first: number, use: (input: MatrixOperand) => void): void {
  if (!isDropping(branch)) return use(x);
  const size = x.rows * x.columns;
  backend.scratch(2 * size, 'dropped-out inputs', (address) => {
    backend.launch(dropoutProgram('bf16', 'bf16', size), [{ pointer: address }, { pointer: x.address }, { i64: size }, { i64: first }, ...drawArguments(backend, branch.dropout)]);
    use({ ...x, address });
  });
}

const shapeOf = ({ shape: [rows, columns] }: TensorInfo): [number, number] => [rows, columns];
