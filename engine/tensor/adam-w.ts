import {
  add, concat, div, fill, minimum, mul, reshape, split, sqrt, square, sub, sum, tidy, variable, zeros,
  type Scalar, type Tensor, type Tensor1D, type Variable,
} from '@tensorflow/tfjs-core';
import { registerPortableKernel, runKernel } from './kernel.js';
import { expectShape, shapeError } from './shape-error.js';

export interface AdamWOptions {
  learningRate: number;
  beta1: number;
  beta2: number;
  epsilon: number;
  weightDecay: number;
  /** Clip the global gradient norm to this; 0 turns clipping off. */
  maxGradNorm: number;
  /** How each parameter departs from the settings above, in their order. @default none does */
  groups?: readonly ParameterGroup[];
}

/** A parameter's share in the settings of all. */
export interface ParameterGroup {
  /** Multiplies the learning rate. */
  rate: number;
  /** Whether it decays. */
  decays: boolean;
}

/** Moments of all parameters in one row each, in the order of the parameters, each flattened. */
export interface AdamWState {
  /** Updates made so far. */
  step: number;
  /** First moment. */
  m: Variable;
  /** Second moment. */
  v: Variable;
}

/** Kernel: no inputs, attrs AdamWAttrs → gradNorm, a scalar: the norm before clipping. Updates parameters, m and v in place, unless it is not finite. */
export const AdamW = 'TemperAdamW';
export interface AdamWAttrs {
  parameters: Variable[];
  gradients: Tensor[];
  /** `step` already counts this update. */
  state: AdamWState;
  options: AdamWOptions;
}

/** Zero moments; to be disposed with `disposeAdamW`. */
export function createAdamW(parameters: readonly Variable[]): AdamWState {
  const size = parameters.reduce((total, parameter) => total + parameter.size, 0);
  const moment = () => tidy(() => variable(zeros([size]), false));
  return { step: 0, m: moment(), v: moment() };
}

export function disposeAdamW({ m, v }: AdamWState): void {
  m.dispose();
  v.dispose();
}

/**
 * One update with decoupled weight decay (arXiv 1711.05101) after clipping the global norm of the gradients: torch's
 * `clip_grad_norm_`, then `torch.optim.AdamW`. Where the norm is not finite, parameters and moments stay as they are.
 * @returns gradNorm: a scalar on the device, the norm before clipping; to be disposed by the caller
 */
export function adamW(parameters: Variable[], gradients: Tensor[], state: AdamWState, options: AdamWOptions): { gradNorm: Scalar } {
  if (parameters.length !== gradients.length) throw shapeError(`adamW: gradients: expected ${parameters.length}, got ${gradients.length}`);
  parameters.forEach((parameter, i) => expectShape('adamW', `gradients[${i}]`, gradients[i], parameter.shape));
  const size = parameters.reduce((total, parameter) => total + parameter.size, 0);
  const { groups } = options;
  if (groups && groups.length !== parameters.length) throw shapeError(`adamW: groups: expected ${parameters.length}, got ${groups.length}`);
  expectShape('adamW', 'state.m', state.m, [size]);
  expectShape('adamW', 'state.v', state.v, [size]);
  state.step++;
  return { gradNorm: runKernel<Scalar>(AdamW, {}, { parameters, gradients, state, options } satisfies AdamWAttrs) };
}

registerPortableKernel<Record<string, never>, AdamWAttrs>(AdamW, (_inputs, { parameters, gradients, state, options }) => {
  const { learningRate, beta1, beta2, epsilon, weightDecay, maxGradNorm, groups } = options;
  const raw = flatten(gradients);
  const gradNorm = sqrt(sum(square(raw)));
  if (!Number.isFinite(gradNorm.dataSync()[0])) return gradNorm;
  const gradient = maxGradNorm > 0 ? mul(raw, minimum(1, div(maxGradNorm, add(gradNorm, 1e-6)))) : raw;
  const m = add(mul(state.m, beta1), mul(gradient, 1 - beta1));
  const v = add(mul(state.v, beta2), mul(square(gradient), 1 - beta2));
  const denominator = add(div(sqrt(v), Math.sqrt(1 - beta2 ** state.step)), epsilon);
  /** A factor of each value: the same number for all, or one for each parameter. */
  const factors = (of: (group: ParameterGroup) => number): number | Tensor1D =>
    groups ? concat(parameters.map(({ size }, i): Tensor1D => fill([size], of(groups[i])))) : of({ rate: 1, decays: true });
  const update = mul(div(m, denominator), factors(({ rate }) => (learningRate * rate) / (1 - beta1 ** state.step)));
  const kept = factors(({ rate, decays }) => (decays ? 1 - learningRate * rate * weightDecay : 1));
  const values = sub(mul(flatten(parameters), kept), update);
  const parts = split(values, parameters.map(({ size }) => size));
  parameters.forEach((parameter, i) => parameter.assign(reshape(parts[i], parameter.shape)));
  state.m.assign(m);
  state.v.assign(v);
  return gradNorm;
});

const flatten = (tensors: readonly Tensor[]): Tensor1D => concat(tensors.map((tensor): Tensor1D => reshape(tensor, [tensor.size])));
