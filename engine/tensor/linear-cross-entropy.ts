import {
  add, cast, concat, logSoftmax, matMul, mul, neg, oneHot, scalar, slice, softmax, sub, sum, tidy,
  type Scalar, type Tensor, type Tensor1D, type Tensor2D,
} from '@tensorflow/tfjs-core';
import { dropoutMask } from './dropout-mask.js';
import { dequantize, type FrozenWeight } from './frozen-weight.js';
import { differentiable, isRecording, registerPortableKernel, runKernel, type Inputs } from './kernel.js';
import { checkLora, type DropoutOptions, type LoraBranch } from './lora.js';
import { expectShape, shapeError, shapeText } from './shape-error.js';
import { isNative, nativeOutputs } from './tensorflow-native.js';

/**
 * Kernel: { hidden [n,h], labels int32 [n], a?, b? }, LinearCrossEntropyAttrs → [loss], and with `gradients` also
 * [dHidden, dA?, dB?] of the loss: the logits are at hand in the forward pass, so no second one is needed.
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

/** Logits that exist at one time, in elements, unless told otherwise: 64 MiB. */
const defaultLogits = 2 ** 24;

/**
 * Sum over rows of -log softmax(hidden·headᵀ + LoRA)[label], in nats, in chunks of rows. Gradients flow to hidden, A and B.
 * @param hidden [n, h], n ≥ 1
 * @param head [vocabulary, h]
 * @param labels int32 [n], each in [0, vocabulary) (not checked here)
 * @param options.chunk rows whose logits exist at one time @default as many as fit 64 MiB
 */
export function linearCrossEntropy(
  hidden: Tensor2D,
  head: FrozenWeight,
  labels: Tensor1D,
  options: { lora?: LoraBranch; chunk?: number } = {},
): Scalar {
  const { lora, chunk = Math.max(1, Math.floor(defaultLogits / head.shape[0])) } = options;
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
    const mask = a && dropout && dropout.rate > 0 ? dropoutMask(hidden.shape, dropout.rate, dropout.key) : undefined;
    let loss: Tensor = scalar(0);
    let dA: Tensor | undefined;
    let dB: Tensor | undefined;
    const dHiddenChunks: Tensor2D[] = [];
    for (let start = 0; start < rows; start += chunk) {
      const size = Math.min(chunk, rows - start);
      const part = tidy((): { total: Tensor; dx?: Tensor2D; dA?: Tensor; dB?: Tensor } => {
        const x: Tensor2D = slice(hidden, [start, 0], [size, -1]);
        const xMask = mask && slice(mask, [start, 0], [size, -1]);
        const dropped = (value: Tensor2D): Tensor2D => (xMask ? mul(value, xMask) : value);
        let logits = matMul(x, weight, false, true) as Tensor2D;
        const branch = a && b && { input: dropped(x), a, b };
        const low: Tensor2D | undefined = branch && mul(matMul(branch.input, branch.a, false, true), scale);
        if (branch && low) logits = add<Tensor2D>(logits, matMul(low, branch.b, false, true));
        const { losses, dLogits } = tokenLosses(logits, slice(labels, [start], [size]), gradients);
        const total = add(loss, sum(losses));
        if (!dLogits) return { total };
        const dx: Tensor2D = matMul(dLogits, weight);
        if (!branch || !low) return { total, dx };
        const dLow: Tensor2D = mul(matMul(dLogits, branch.b), scale);
        return {
          total,
          dx: add<Tensor2D>(dx, dropped(matMul(dLow, branch.a))),
          dA: plus(dA, matMul(dLow, branch.input, true, false)),
          dB: plus(dB, matMul(dLogits, low, true, false)),
        };
      });
      loss = part.total;
      if (part.dx) dHiddenChunks.push(part.dx);
      if (part.dA) [dA, dB] = [part.dA, part.dB];
    }
    if (!gradients) return [loss];
    return [loss, concat(dHiddenChunks, 0), ...(dA && dB ? [dA, dB] : [])];
  },
);

const plus = (sum: Tensor | undefined, term: Tensor): Tensor => (sum ? add(sum, term) : term);

/** Loss of each row and, when asked for, its gradient to the logits: softmax - one-hot. */
function tokenLosses(logits: Tensor2D, labels: Tensor1D, gradients: boolean): { losses: Tensor; dLogits?: Tensor2D } {
  if (isNative()) {
    const [losses, dLogits] = nativeOutputs('SparseSoftmaxCrossEntropyWithLogits', [logits, labels], 2, {
      types: { T: 'float32', Tlabels: 'int32' },
    });
    return { losses, dLogits: gradients ? (dLogits as Tensor2D) : undefined };
  }
  const targets = cast(oneHot(labels, logits.shape[1]), 'float32') as Tensor2D;
  return { losses: neg(sum(mul(logSoftmax(logits), targets), 1)), dLogits: gradients ? (sub(softmax(logits), targets) as Tensor2D) : undefined };
}
