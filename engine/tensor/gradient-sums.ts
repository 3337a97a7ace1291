import { add, tidy, variable, zeros, type Tensor, type Variable } from '@tensorflow/tfjs-core';
import { registerPortableKernel, runKernel } from './kernel.js';
import { expectShape, shapeError } from './shape-error.js';

/** Kernel: no inputs, attrs AddGradientsAttrs → nothing. Changes the sums in place. */
export const AddGradients = 'TemperAddGradients';
export interface AddGradientsAttrs {
  sums: Variable[];
  gradients: Tensor[];
  /** What the sums hold counts for nothing. */
  first: boolean;
}

/** Places for the gradients of an optimizer step, one a parameter; what they hold at first means nothing. */
export const createGradientSums = (parameters: readonly Variable[]): Variable[] =>
  parameters.map(({ shape }) => tidy(() => variable(zeros(shape), false)));

/** sums += gradients, or sums = gradients where they are the first of a step. */
export function addGradients(sums: Variable[], gradients: Tensor[], first: boolean): void {
  if (sums.length !== gradients.length) throw shapeError(`addGradients: gradients: expected ${sums.length}, got ${gradients.length}`);
  sums.forEach((sum, i) => expectShape('addGradients', `gradients[${i}]`, gradients[i], sum.shape));
  if (sums.length > 0) runKernel<Tensor[]>(AddGradients, {}, { sums, gradients, first } satisfies AddGradientsAttrs);
}

registerPortableKernel<Record<string, never>, AddGradientsAttrs>(AddGradients, (_inputs, { sums, gradients, first }) => {
  sums.forEach((sum, i) => sum.assign(first ? gradients[i] : add(sum, gradients[i])));
  return [];
});
