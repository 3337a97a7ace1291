import { add, matMul, reshape, util, type Tensor, type Tensor2D } from '@tensorflow/tfjs-core';
import { doraLinear, type DoraBranch } from './dora-linear.js';
import type { FrozenWeight } from './frozen-weight.js';
import { checkLora, type LoraBranch } from './lora.js';
import { quantizedLinear, type QuantizedLinearOptions } from './quantized-linear.js';

/** Whether a branch sets the lengths of the weight's rows, which the fused ops know nothing of. */
export const isDora = (lora: LoraBranch | undefined): lora is DoraBranch => lora?.magnitude !== undefined;

/**
 * A linear layer in the way that its weight and its branch call for: frozen, frozen with a low-rank branch, with rows of trained
 * lengths, or trained in full. Gradients flow to x and to all that is trained.
 * @param x [..., in]
 * @returns [..., out]
 */
export function adaptedLinear(x: Tensor, weight: FrozenWeight, options: QuantizedLinearOptions = {}): Tensor {
  const { lora, bias } = options;
  if (isDora(lora)) {
    checkLora('adaptedLinear', lora, weight.shape);
    return doraLinear(x, weight, lora, bias);
  }
  if (weight.kind !== 'dense' || !weight.trained) return quantizedLinear(x, weight, options);
  const [out, inner] = weight.shape;
  const rows: Tensor2D = reshape(x, [util.sizeFromShape(x.shape) / inner, inner]);
  const y = reshape(matMul(rows, weight.value, false, true), [...x.shape.slice(0, -1), out]);
  return bias ? add(y, bias) : y;
}
