import { add, matMul, mul, reshape, sum, util, type Tensor, type Tensor1D, type Tensor2D } from '@tensorflow/tfjs-core';
import { dropoutMask } from './dropout-mask.js';
import { dequantize, type FrozenWeight } from './frozen-weight.js';
import { differentiable, registerPortableKernel, runKernel, type Inputs } from './kernel.js';
import { checkLora, type DropoutOptions, type LoraBranch } from './lora.js';
import { expectShape, shapeError, shapeText } from './shape-error.js';

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
  const rows: Tensor2D = reshape(x, [util.sizeFromShape(lead), inner]);
  const forward = { x: rows, a: lora?.a, b: lora?.b, bias };
  const y = differentiable<Tensor>(
    forward,
    (save) => {
      const [y, hidden] = runKernel<Tensor[]>(QuantizedLinear, forward, attrs);
      if (lora) save([rows, hidden, lora.a, lora.b]);
      return y;
    },
    (dy, saved) => backward(dy as Tensor2D, saved as Tensor2D[], attrs),
  );
  return reshape(y, [...lead, out]);
}

function backward(dy: Tensor2D, saved: Tensor2D[], attrs: QuantizedLinearAttrs): Record<string, () => Tensor> {
  const bias = () => sum(dy, 0);
  if (saved.length === 0) return { x: () => runKernel<Tensor>(QuantizedLinearGradInput, { dy }, attrs), bias };
  const [x, hidden, a, b] = saved;
  const [da, db, dHidden] = runKernel<Tensor[]>(LoraGrad, { dy, x, hidden, b }, attrs);
  return { x: () => runKernel<Tensor>(QuantizedLinearGradInput, { dy, dHidden, a }, attrs), a: () => da, b: () => db, bias };
}

export interface QuantizedLinearAttrs {
  weight: FrozenWeight;
  /** Of the LoRA branch; 0 without one. */
  scale: number;
  dropout?: DropoutOptions;
}

/** Kernel: { x [n,in], a?, b?, bias? }, QuantizedLinearAttrs → [y [n,out]] and, with a branch, hidden [n,rank] = scale · dropout(x)·Aᵀ. */
export const QuantizedLinear = 'TemperQuantizedLinear';
export interface QuantizedLinearInputs extends Inputs {
  x: Tensor2D;
  a?: Tensor2D;
  b?: Tensor2D;
  bias?: Tensor1D;
}

/** Kernel: { dy [n,out], x [n,in], hidden [n,rank], b }, QuantizedLinearAttrs → [dA, dB, dHidden [n,rank] = scale · dy·B]. */
export const LoraGrad = 'TemperLoraGrad';
export interface LoraGradInputs extends Inputs {
  dy: Tensor2D;
  x: Tensor2D;
  hidden: Tensor2D;
  b: Tensor2D;
}

/** Kernel: { dy [n,out], dHidden?, a? }, QuantizedLinearAttrs → dx [n,in] = dy·W + dropout(dHidden·A). */
export const QuantizedLinearGradInput = 'TemperQuantizedLinearGradInput';
export interface QuantizedLinearGradInputInputs extends Inputs {
  dy: Tensor2D;
  dHidden?: Tensor2D;
  a?: Tensor2D;
}

registerPortableKernel<QuantizedLinearInputs, QuantizedLinearAttrs>(QuantizedLinear, ({ x, a, b, bias }, { weight, scale, dropout }) => {
  let y: Tensor = matMul(x, dequantize(weight), false, true);
  if (bias) y = add(y, bias);
  if (!a || !b) return [y];
  const hidden = mul(matMul(dropped(x, dropout), a, false, true), scale);
  return [add(y, matMul(hidden, b, false, true)), hidden];
});

registerPortableKernel<LoraGradInputs, QuantizedLinearAttrs>(LoraGrad, ({ dy, x, hidden, b }, { scale, dropout }) => {
  const dHidden = mul(matMul(dy, b), scale);
  return [matMul(dHidden, dropped(x, dropout), true, false), matMul(dy, hidden, true, false), dHidden];
});

registerPortableKernel<QuantizedLinearGradInputInputs, QuantizedLinearAttrs>(
  QuantizedLinearGradInput,
  ({ dy, dHidden, a }, { weight, dropout }) => {
    const dx = matMul(dy, dequantize(weight));
    return dHidden && a ? add(dx, dropped(matMul(dHidden, a), dropout)) : dx;
  },
);

/** Dropout is its own gradient: the same mask, drawn again rather than stored. */
const dropped = (x: Tensor2D, dropout?: DropoutOptions): Tensor2D =>
  dropout && dropout.rate > 0 ? mul(x, dropoutMask(x.shape, dropout.rate, dropout.key)) : x;
