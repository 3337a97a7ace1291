import { add, div, keep, matMul, mul, reshape, sqrt, square, sub, sum, tidy, transpose, type Tensor, type Tensor1D, type Tensor2D } from '@tensorflow/tfjs-core';
import { dropoutMask } from './dropout-mask.js';
import { dequantize, type FrozenWeight } from './frozen-weight.js';
import { differentiable } from './kernel.js';
import type { LoraBranch } from './lora.js';
import { quantizedLinear } from './quantized-linear.js';

/** A branch that also sets the length of every row of the weight. */
export type DoraBranch = LoraBranch & { magnitude: Tensor1D };

/**
 * A weight-decomposed linear layer (DoRA, arXiv 2402.09353), as PEFT computes it: with W' = W + scale · B·A and
 * s = magnitude / ‖rows of W'‖, y = x·Wᵀ + bias + (s - 1) · dropout(x)·Wᵀ + s · scale · dropout(x)·Aᵀ·Bᵀ. Without dropout
 * that is s · x·W'ᵀ + bias. The norm counts as a constant: gradients flow to x, A, B, the magnitude and the bias.
 * @param x [..., in]
 * @returns [..., out]
 */
export function doraLinear(x: Tensor, weight: FrozenWeight, { magnitude, dropout, ...lora }: DoraBranch, bias?: Tensor1D): Tensor {
  const scales = rowScales(weight, lora, magnitude);
  const scaled = (input: Tensor): Tensor => mul(quantizedLinear(input, weight, { lora }), scales);
  const withBias = (y: Tensor): Tensor => (bias ? add(y, bias) : y);
  if (!dropout || dropout.rate === 0) return withBias(scaled(x));
  const dropped = mul(x, dropoutMask(x.shape, dropout.rate, dropout.key));
  return withBias(add(quantizedLinear(sub(x, dropped), weight), scaled(dropped)));
}

/** magnitude / ‖rows of W + scale · B·A‖: [out]; a gradient flows to the magnitude alone. */
function rowScales(weight: FrozenWeight, { a, b, scale }: LoraBranch, magnitude: Tensor1D): Tensor1D {
  return differentiable<Tensor1D>(
    { magnitude },
    (save) => {
      const norms = rowNorms(weight, a, b, scale);
      save([norms]);
      return div(magnitude, norms);
    },
    (dy, [norms]) => ({ magnitude: () => div(dy, norms) }),
  );
}

/**
 * ‖rows of W + scale · B·A‖: [out], without making that matrix: ‖w + s·bA‖² = ‖w‖² + 2s · b·(A·w) + s² · b·(A·Aᵀ)·b, where
 * ‖w‖² is worked out once and the rest takes products as narrow as the rank.
 */
export function rowNorms(weight: FrozenWeight, a: Tensor2D, b: Tensor2D, scale: number): Tensor1D {
  return tidy(() => {
    const crossed = sum(mul(b, transpose(quantizedLinear(a, weight))), 1);
    const low = sum(mul(b, matMul(b, matMul(a, a, false, true))), 1);
    return sqrt(add(rowSquares(weight), add(mul(crossed, 2 * scale), mul(low, scale ** 2)))) as Tensor1D;
  });
}

/** ‖rows of W‖²: [out], worked out at the first call and kept with the weight. */
export function rowSquares(weight: FrozenWeight): Tensor1D {
  weight.rowSquares ??= keep(tidy(() => reshape(sum(square(dequantize(weight)), 1), [weight.shape[0]])));
  return weight.rowSquares;
}
