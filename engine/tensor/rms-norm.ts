import { add, clone, mean, mul, reshape, rsqrt, square, sub, sum, util, type Tensor, type Tensor1D, type Tensor2D } from '@tensorflow/tfjs-core';
import { differentiable, registerPortableKernel, runKernel, type Inputs } from './kernel.js';
import { expectShape, shapeError, shapeText } from './shape-error.js';

/** Kernel: { x [n,d], weight [d] }, { eps } → y [n,d]. */
export const RmsNorm = 'TemperRmsNorm';
export interface RmsNormInputs extends Inputs {
  x: Tensor;
  weight: Tensor1D;
}
/** Kernel: { dy [n,d], x [n,d], weight [d], skip? [n,d] }, { eps } → dx [n,d], plus `skip`. */
export const RmsNormGrad = 'TemperRmsNormGrad';
export interface RmsNormGradInputs extends RmsNormInputs {
  dy: Tensor;
  skip?: Tensor;
}
export interface RmsNormAttrs {
  /** Added to the mean square. */
  eps: number;
  /** The result goes into linear layers: a backend may store it as they like it best. */
  forLinears?: boolean;
}

/**
 * x / sqrt(mean(x²) + eps) · weight over the last axis (arXiv 1910.07467).
 * @param x [..., d]
 * @param weight [d]
 * @param options.forLinears see `RmsNormAttrs` @default false
 */
export function rmsNorm(x: Tensor, weight: Tensor1D, eps = 1e-6, { forLinears = false } = {}): Tensor {
  const size = x.shape.at(-1);
  if (weight.rank !== 1 || weight.size !== size) {
    throw shapeError(`rmsNorm: weight ${shapeText(weight)} does not match the last axis of x ${shapeText(x)}`);
  }
  const inputs = { x: x.rank === 2 ? x : reshape(x, [util.sizeFromShape(x.shape) / size, size]), weight };
  const attrs: RmsNormAttrs = { eps, forLinears };
  const y = differentiable<Tensor>(
    inputs,
    (save) => {
      save([inputs.x, weight]);
      return runKernel<Tensor>(RmsNorm, inputs, attrs);
    },
    (dy, [x, weight]) => ({
      x: () => runKernel<Tensor>(RmsNormGrad, { dy, x, weight }, attrs),
      weight: () => sum(mul(dy, normalized(x, eps)), 0),
    }),
  );
  return x.rank === 2 ? y : reshape(y, x.shape);
}

/** A stream and its norm, which stand for rmsNorm(x, norm, eps) and x itself, as `rmsNormBeside` has them. No gradient flows to the norm. */
export interface NormedInput {
  /** [n, d]. */
  x: Tensor2D;
  /** [d]. */
  norm: Tensor1D;
  /** Added to the mean square. */
  eps: number;
}
export const isNormed = (input: object): input is NormedInput => 'eps' in input; // a tensor may have a method `norm`

/**
 * [x itself, rmsNorm(x)], for a stream that goes on past the layer it is normalised for: the gradients of both are summed as they
 * are made. No gradient flows to the weight.
 * @param x [n, d]
 */
export function rmsNormBeside(x: Tensor2D, weight: Tensor1D, eps = 1e-6): [Tensor2D, Tensor2D] {
  expectShape('rmsNormBeside', 'weight', weight, [x.shape[1]]);
  const attrs: RmsNormAttrs = { eps };
  return differentiable<Tensor[]>(
    { x },
    (save) => {
      save([x, weight]);
      return [clone(x), runKernel<Tensor>(RmsNorm, { x, weight }, { ...attrs, forLinears: true } satisfies RmsNormAttrs)];
    },
    (dys, [x, weight]) => {
      const [skip, dy] = dys as Tensor[];
      return { x: () => runKernel<Tensor>(RmsNormGrad, { dy, x, weight, skip }, attrs) };
    },
  ) as [Tensor2D, Tensor2D];
}

const inverseRoot = (x: Tensor, eps: number): Tensor => rsqrt(add(mean(square(x), -1, true), eps));
const normalized = (x: Tensor, eps: number): Tensor => mul(x, inverseRoot(x, eps));

registerPortableKernel<RmsNormInputs, RmsNormAttrs>(RmsNorm, ({ x, weight }, { eps }) => mul(normalized(x, eps), weight));

registerPortableKernel<RmsNormGradInputs, RmsNormAttrs>(RmsNormGrad, ({ dy, x, weight, skip }, { eps }) => {
  // With r = 1/rms and g = dy·weight: dx = r·g - x·r³·mean(g·x).
  const r = inverseRoot(x, eps);
  const g = mul(dy, weight);
  const slope = mul(mean(mul(g, x), -1, true), mul(square(r), r));
  const dx = sub(mul(g, r), mul(x, slope));
  return skip ? add(skip, dx) : dx;
});
