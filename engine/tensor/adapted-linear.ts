import { add, matMul, mul, reshape, util, type Tensor, type Tensor2D } from '@tensorflow/tfjs-core';
import { doraLinear, type DoraBranch } from './dora-linear.js';
import type { FrozenWeight } from './frozen-weight.js';
import type { DenseWeight } from './weight-types.js';
import { checkLora, type LoraBranch } from './lora.js';
import { quantizedLinear, quantizedLinears, type LayerInput, type LinearMember, type QuantizedLinearOptions } from './quantized-linear.js';
import { isNormed, rmsNormBeside } from './rms-norm.js';
import { isGated, swiGlu } from './swi-glu.js';

/** Whether a branch sets the lengths of the weight's rows, which the fused ops know nothing of. */
export const isDora = (lora: LoraBranch | undefined): lora is DoraBranch => lora?.magnitude !== undefined;

/**
 * A linear layer in the way that its weight and its branch call for: frozen, frozen with a low-rank branch, with rows of trained
 * lengths, with branches that differ from row to row, or trained in full. Gradients flow to x and to all that is trained.
 * @param x [..., in]
 * @returns [..., out]
 */
export const adaptedLinear = (x: Tensor, weight: FrozenWeight, options: QuantizedLinearOptions = {}): Tensor => adaptedLinears(x, [{ weight, ...options }])[0];

/** The same for several layers of one input; those that the fused op knows are worked on together. @param input as of `quantizedLinears`, and so are the results */
export function adaptedLinears(input: LayerInput, members: readonly LinearMember[]): Tensor[] {
  const fused = members.filter(({ weight, lora }) => !isDora(lora) && !lora?.factors && !(weight.kind === 'dense' && weight.trained));
  if (fused.length === members.length) return quantizedLinears(input, fused);
  if (isNormed(input)) {
    const [stream, normed] = rmsNormBeside(input.x, input.norm, input.eps);
    return [stream, ...adaptedLinears(normed, members)];
  }
  const x = isGated(input) ? swiGlu(input.gate, input.up) : input;
  const together = fused.length > 0 ? quantizedLinears(x, fused) : [];
  return members.map((member) => {
    const place = fused.indexOf(member);
    if (place >= 0) return together[place];
    const { residual } = member, y = special(x, member);
    return residual ? add(residual, y) : y;
  });
}

function special(x: Tensor, { weight, lora, bias }: LinearMember): Tensor {
  if (isDora(lora)) {
    checkLora('adaptedLinear', lora, weight.shape);
    return doraLinear(x, weight, lora, bias);
  }
  if (lora?.factors) return add(quantizedLinear(x, weight, { bias }), rowBranches(x, lora, lora.factors));
  const [out, inner] = weight.shape;
  const rows: Tensor2D = reshape(x, [util.sizeFromShape(x.shape) / inner, inner]);
  const y = reshape(matMul(rows, (weight as DenseWeight).value, false, true), [...x.shape.slice(0, -1), out]);
  return bias ? add(y, bias) : y;
}

/** scale · (x·Aᵀ ⊙ factors)·Bᵀ */
function rowBranches(x: Tensor, { a, b, scale }: LoraBranch, factors: Tensor2D): Tensor {
  const rows: Tensor2D = reshape(x, [factors.shape[0], a.shape[1]]);
  const hidden = mul(mul(matMul(rows, a, false, true), factors), scale);
  return reshape(matMul(hidden as Tensor2D, b, false, true), [...x.shape.slice(0, -1), b.shape[0]]);
}
