import {
  add, cast, concat, expandDims, gather, greaterEqual, log, matMul, max, maximum, mul, oneHot, range, reshape, scalar, slice, softmax, sub, sum, tidy, unsortedSegmentSum,
  type Scalar, type Tensor, type Tensor1D, type Tensor2D,
} from '@tensorflow/tfjs-core';
import { dropoutMask } from './dropout-mask.js';
import { dequantize, type FrozenWeight } from './frozen-weight.js';
import { differentiable, isRecording, registerPortableKernel, runKernel, type Inputs } from './kernel.js';
import { checkLora, type DropoutOptions, type LoraBranch } from './lora.js';
import { expectShape, shapeError, shapeText } from './shape-error.js';
import { gatherRows, isNative } from './tensorflow-native.js';

/**
 * Kernel: { hidden [n,h], labels int32 [n], a?, b? }, LinearCrossEntropyAttrs → [loss], and with `gradients` also
 * [dHidden, dA?, dB?] of the loss: the logits are at hand in the forward pass, so no second one is needed. Rows with a negative
 * label add nothing to any of them.
 */
export const LinearCrossEntropy = 'TemperLinearCrossEntropy';
export interface LinearCrossEntropyInputs extends Inputs {
  hidden: Tensor2D;
  labels: Tensor1D;
  a?: Tensor2D;
  b?: Tensor2D;
}
export interface LinearCrossEntropyAttrs {
  head: FrozenWeight;
  /** Of the LoRA branch; 0 without one. */
  scale: number;
  dropout?: DropoutOptions;
  /** Rows whose logits exist at one time. */
  chunk: number;
  gradients: boolean;
}

/** Logits that exist at one time, in elements, unless told otherwise. */
export const DEFAULT_LOGITS = 2 ** 24;

/**
 * Sum over the counted rows of -log softmax(hidden·headᵀ + LoRA)[label], in nats, in chunks of rows. Gradients flow to hidden, A and B.
 * @param hidden [n, h], n ≥ 1
 * @param head [vocabulary, h]
 * @param labels int32 [n], each below the vocabulary's size (not checked here); a row with a negative one is not counted
 * @param options.logits logits that exist at one time @default 2^24: 64 MiB in float32
 * @param options.chunk rows whose logits exist at one time @default as many as `logits` allows
 */
export function linearCrossEntropy(
  hidden: Tensor2D,
  head: FrozenWeight,
  labels: Tensor1D,
  options: { lora?: LoraBranch; logits?: number; chunk?: number } = {},
): Scalar {
  const { lora, logits = DEFAULT_LOGITS, chunk = Math.max(1, Math.floor(logits / head.shape[0])) } = options;
  expectShape('linearCrossEntropy', 'hidden', hidden, ['n', head.shape[1]]);
  if (hidden.shape[0] === 0) throw shapeError(`linearCrossEntropy: hidden: expected at least one row, got ${shapeText(hidden)}`);
  expectShape('linearCrossEntropy', 'labels', labels, [hidden.shape[0]]);
  if (labels.dtype !== 'int32') throw shapeError(`linearCrossEntropy: labels: expected int32, got ${labels.dtype}`);
  if (lora) checkLora('linearCrossEntropy', lora, head.shape);

  const gradients = isRecording();
  const attrs: LinearCrossEntropyAttrs = { head, scale: lora?.scale ?? 0, dropout: lora?.dropout, chunk, gradients };
  return differentiable<Scalar>(
    { hidden, a: lora?.a, b: lora?.b },
    (save) => {
      const [loss, ...saved] = runKernel<Tensor[]>(LinearCrossEntropy, { hidden, labels, a: lora?.a, b: lora?.b }, attrs);
      save(saved);
      return loss as Scalar;
    },
    (dy, [dHidden, da, db]) => ({ hidden: () => mul(dHidden, dy), a: () => mul(da, dy), b: () => mul(db, dy) }),
  );
}

registerPortableKernel<LinearCrossEntropyInputs, LinearCrossEntropyAttrs>(
  LinearCrossEntropy,
  ({ hidden, labels, a, b }, { head, scale, dropout, chunk, gradients }) => {
    const weight = dequantize(head);
    const rows = hidden.shape[0];
    const mask = a && dropout && dropout.rate > 0 ? (dropoutMask(hidden.shape, dropout.rate, dropout.key) as Tensor2D) : undefined;
    const branch = a && b && { a, b, scale };
    const parts: ChunkResult[] = [];
    for (let start = 0; start < rows; start += chunk) {
      const size = Math.min(chunk, rows - start);
      const cut = (x: Tensor2D): Tensor2D => slice(x, [start, 0], [size, -1]);
      parts.push(tidy(() => chunkLoss(cut(hidden), slice(labels, start, size), weight, branch, mask && cut(mask), gradients)));
    }
    const loss = total(parts.map(({ loss }) => loss));
    if (!gradients) return [loss];
    const dHidden = concat(parts.map(({ dHidden }) => dHidden!), 0);
    return [loss, dHidden, ...(branch ? [total(parts.map(({ dA }) => dA!)), total(parts.map(({ dB }) => dB!))] : [])];
  },
);

/** Loss of some rows and its gradients; those of A and B are these rows' share. */
interface ChunkResult extends Record<string, Tensor | undefined> {
  loss: Tensor;
  dHidden?: Tensor2D;
  dA?: Tensor2D;
  dB?: Tensor2D;
}

function chunkLoss(
  x: Tensor2D,
  given: Tensor1D,
  weight: Tensor2D,
  branch: { a: Tensor2D; b: Tensor2D; scale: number } | undefined,
  mask: Tensor2D | undefined,
  gradients: boolean,
): ChunkResult {
  const dropped = (value: Tensor2D): Tensor2D => (mask ? mul(value, mask) : value);
  const labels = maximum(given, scalar(0, 'int32')) as Tensor1D;
  /** 1 for rows that count, else 0. */
  const counts = cast(greaterEqual(given, scalar(0, 'int32')), 'float32') as Tensor1D;
  const counted = (rows: Tensor2D): Tensor2D => mul(rows, expandDims(counts, 1));
  const product: Tensor2D = matMul(x, weight, false, true);
  const low = branch && mul<Tensor2D>(matMul(dropped(x), branch.a, false, true), branch.scale);
  const logits = branch && low ? add<Tensor2D>(product, matMul(low, branch.b, false, true)) : product;
  const probabilities = softmax(logits);
  // -log p[label] through the likeliest token, whose probability cannot underflow: log Σ exp = max - log p[max].
  const logSums = sub(max(logits, 1), log(max(probabilities, 1)));
  const loss = sum(mul(sub(logSums, at(logits, labels)), counts));
  if (!gradients) return { loss };
  // The gradient to the logits is probabilities - one-hot, zero where a row does not count; it is never made, only its products with W, B and low.
  const through = (matrix: Tensor2D): Tensor2D => counted(sub(matMul(probabilities, matrix), rowsOf(matrix, labels)));
  const dx = through(weight);
  if (!branch || !low) return { loss, dHidden: dx };
  const dLow = mul<Tensor2D>(through(branch.b), branch.scale);
  const dHidden = add<Tensor2D>(dx, dropped(matMul(dLow, branch.a)));
  const dA: Tensor2D = matMul(dLow, dropped(x), true, false);
  const countedLow = counted(low);
  const dB = sub<Tensor2D>(matMul(probabilities, countedLow, true, false), sumByLabel(countedLow, labels, weight.shape[0]));
  return { loss, dHidden, dA, dB };
}

const total = (terms: Tensor[]): Tensor => terms.reduce((sum, term) => add(sum, term));

/** logits[i, labels[i]]: [n]. */
function at(logits: Tensor2D, labels: Tensor1D): Tensor {
  const [rows, columns] = logits.shape;
  return rowsOf(reshape(logits, [-1]), add(range(0, rows * columns, columns, 'int32'), labels));
}

const rowsOf = <T extends Tensor>(table: T, indices: Tensor1D): T =>
  isNative() ? (gatherRows(table, indices) as T) : (gather(table, indices) as T);

/** Sums the rows of `values` that have the same label: [n, r] → [count, r]. */
const sumByLabel = (values: Tensor2D, labels: Tensor1D, count: number): Tensor2D =>
  isNative() ? unsortedSegmentSum(values, labels, count) : matMul(cast(oneHot(labels, count), 'float32'), values, true, false);
