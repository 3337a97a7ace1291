import { add, cast, greater, matMul, mul, reshape, sum, util, type Tensor, type Tensor1D, type Tensor2D } from '@tensorflow/tfjs-core';
import { dropoutMask } from './dropout-mask.js';
import { dropoutKeepNative, selectNative } from './dropout-mask-native.js';
import { dequantize, type FrozenWeight } from './frozen-weight.js';
import { differentiable, registerPortableKernel, runKernel, type Inputs } from './kernel.js';
import { checkLora, type DropoutOptions, type LoraBranch } from './lora.js';
import { expectShape, shapeError, shapeText } from './shape-error.js';
import { isNative } from './tensorflow-native.js';

export interface QuantizedLinearOptions {
  lora?: LoraBranch;
  /** [out]. */
  bias?: Tensor1D;
}

/**
 * y = x·Wᵀ + bias + scale · dropout(x)·Aᵀ·Bᵀ, with W frozen: gradients flow to x, A, B and the bias only.
 * @param x [..., in]
 * @returns [..., out]
 */
export function quantizedLinear(x: Tensor, weight: FrozenWeight, options: QuantizedLinearOptions = {}): Tensor {
  const [out, inner] = weight.shape;
  const { lora, bias } = options;
  if (x.shape.at(-1) !== inner) throw shapeError(`quantizedLinear: x: expected [...,${inner}] for weight [${out},${inner}], got ${shapeText(x)}`);
  if (lora) checkLora('quantizedLinear', lora, weight.shape);
  if (bias) expectShape('quantizedLinear', 'bias', bias, [out]);

  const lead = x.shape.slice(0, -1);
  const attrs: QuantizedLinearAttrs = { weight, scale: lora?.scale ?? 0, dropout: lora?.dropout };
  const isMatrix = x.rank === 2; // a reshape costs an op call, which counts where the rows are few
  const rows: Tensor2D = isMatrix ? (x as Tensor2D) : reshape(x, [util.sizeFromShape(lead), inner]);
  const forward = { x: rows, a: lora?.a, b: lora?.b, bias };
  const y = differentiable<Tensor>(
    forward,
    (save) => {
      const [y, hidden, ...keep] = runKernel<Tensor[]>(QuantizedLinear, forward, attrs);
      if (lora) save([rows, hidden, lora.a, lora.b, ...keep]);
      return y;
    },
    (dy, saved) => backward(dy as Tensor2D, saved as Tensor2D[], attrs),
  );
  return isMatrix ? y : reshape(y, [...lead, out]);
}

function backward(dy: Tensor2D, saved: Tensor2D[], attrs: QuantizedLinearAttrs): Record<string, () => Tensor> {
  const bias = () => sum(dy, 0);
  if (saved.length === 0) return { x: () => runKernel<Tensor>(QuantizedLinearGradInput, { dy }, attrs), bias };
  const [x, hidden, a, b, keep] = saved;
  const [da, db, dHidden] = runKernel<Tensor[]>(LoraGrad, { dy, x, hidden, b, keep }, attrs);
  return { x: () => runKernel<Tensor>(QuantizedLinearGradInput, { dy, dHidden, a, keep }, attrs), a: () => da, b: () => db, bias };
}

export interface QuantizedLinearAttrs {
  weight: FrozenWeight;
  /** Of the LoRA branch; 0 without one. */
  scale: number;
  dropout?: DropoutOptions;
}

/**
 * Kernel: { x [n,in], a?, b?, bias? }, QuantizedLinearAttrs → [y [n,out]] and, with a branch, hidden [n,rank] = scale · dropout(x)·Aᵀ.
 * A backend for which drawing is dear adds keep (bool [n,in], what dropout keeps), and gets it back in the backward kernels.
 */
export const QuantizedLinear = 'TemperQuantizedLinear';
export interface QuantizedLinearInputs extends Inputs {
  x: Tensor2D;
  a?: Tensor2D;
  b?: Tensor2D;
  bias?: Tensor1D;
}

/**
 * Kernel: { dy [n,out], x [n,in], hidden [n,rank], b, keep? }, QuantizedLinearAttrs → [dA, dB, dHidden [n,rank]]; dHidden, scale · dy·B,
 * is for QuantizedLinearGradInput of the same backend alone, which may expect dropout's factor in it.
 */
export const LoraGrad = 'TemperLoraGrad';
export interface LoraGradInputs extends Inputs {
  dy: Tensor2D;
  x: Tensor2D;
  hidden: Tensor2D;
  b: Tensor2D;
  keep?: Tensor2D;
}

/** Kernel: { dy [n,out], dHidden?, a?, keep? }, QuantizedLinearAttrs → dx [n,in] = dy·W + dropout(dHidden·A). */
export const QuantizedLinearGradInput = 'TemperQuantizedLinearGradInput';
export interface QuantizedLinearGradInputInputs extends Inputs {
  dy: Tensor2D;
  dHidden?: Tensor2D;
  a?: Tensor2D;
  keep?: Tensor2D;
}

registerPortableKernel<QuantizedLinearInputs, QuantizedLinearAttrs>(QuantizedLinear, ({ x, a, b, bias }, { weight, scale, dropout }) => {
  let y: Tensor = matMul(x, dequantize(weight), false, true);
  if (bias) y = add(y, bias);
  if (!a || !b) return [y];
  const keep = dropout && dropout.rate > 0 ? dropoutKeep(x.shape, dropout) : undefined;
  const hidden = mul(matMul(dropped(x, keep), a, false, true), scale * inflation(dropout));
  return [add(y, matMul(hidden, b, false, true)), hidden, ...(keep ? [keep] : [])];
});

registerPortableKernel<LoraGradInputs, QuantizedLinearAttrs>(LoraGrad, ({ dy, x, hidden, b, keep }, { scale, dropout }) => {
  const dHidden = mul(matMul(dy, b), scale * inflation(dropout));
  return [matMul(dHidden, dropped(x, keep), true, false), matMul(dy, hidden, true, false), dHidden];
});

registerPortableKernel<QuantizedLinearGradInputInputs, QuantizedLinearAttrs>(QuantizedLinearGradInput, ({ dy, dHidden, a, keep }, { weight }) => {
  const dx = matMul(dy, dequantize(weight));
  return dHidden && a ? add(dx, dropped(matMul(dHidden, a), keep)) : dx;
});

/** What dropout multiplies the kept elements by; taken into the narrow matrices, which costs less than in the wide ones. */
const inflation = (dropout?: DropoutOptions): number => (dropout ? Math.fround(1 / (1 - dropout.rate)) : 1);

function dropoutKeep(shape: number[], { rate, key }: DropoutOptions): Tensor {
  return isNative() ? dropoutKeepNative(shape, rate, key) : greater(dropoutMask(shape, rate, key), 0);
}

/** Zeroes what is not kept. Dropout is its own gradient. */
function dropped(x: Tensor2D, keep?: Tensor): Tensor2D {
  if (!keep) return x;
  return (isNative() ? selectNative(keep, x) : mul(x, cast(keep, 'float32'))) as Tensor2D;
}
