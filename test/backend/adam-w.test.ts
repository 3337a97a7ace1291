import { memory, ones, tensor1d, tidy, variable, zeros, type Tensor } from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { adamW, createAdamW, disposeAdamW, type AdamWOptions, type ParameterGroup } from '../../engine/tensor/adam-w.js';
import { describeBackends } from '../kit/backends.js';
import { expectClose, random, toTensor } from '../kit/check-op.js';

/** torch.nn.utils.clip_grad_norm_ and torch.optim.AdamW in float64, over all parameters in one row. */
class Reference {
  private step = 0;
  private readonly m: Float64Array;
  private readonly v: Float64Array;
  constructor(readonly values: Float64Array) {
    this.m = new Float64Array(values.length);
    this.v = new Float64Array(values.length);
  }
  update(gradient: Float64Array, { learningRate, beta1, beta2, epsilon, weightDecay, maxGradNorm }: AdamWOptions, groupOf: (i: number) => ParameterGroup): number {
    this.step++;
    const norm = Math.sqrt(gradient.reduce((sum, g) => sum + g * g, 0));
    const clip = maxGradNorm > 0 ? Math.min(1, maxGradNorm / (norm + 1e-6)) : 1;
    gradient.forEach((raw, i) => {
      const g = raw * clip;
      this.m[i] = beta1 * this.m[i] + (1 - beta1) * g;
      this.v[i] = beta2 * this.v[i] + (1 - beta2) * g * g;
      const denominator = Math.sqrt(this.v[i]) / Math.sqrt(1 - beta2 ** this.step) + epsilon;
      const { rate, decays } = groupOf(i);
      const kept = decays ? 1 - learningRate * rate * weightDecay : 1;
      this.values[i] = this.values[i] * kept - (((learningRate * rate) / (1 - beta1 ** this.step)) * this.m[i]) / denominator;
    });
    return norm;
  }
}

const options: AdamWOptions = { learningRate: 0.01, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: 0.1, maxGradNorm: 0.3 };

describeBackends('adamW', ({ backend, tolerance }) => {
  it.each<[string, AdamWOptions]>([
    ['clipped', options],
    ['below the limit', { ...options, maxGradNorm: 1e6 }],
    ['unclipped', { ...options, maxGradNorm: 0 }],
    ['clipped, with a rate of its own for each parameter', { ...options, groups: [{ rate: 1, decays: true }, { rate: 16, decays: false }, { rate: 0.5, decays: true }] }],
  ])('follows torch over five updates, gradient %s', async (_name, settings) => {
    const shapes = [[3, 5], [1], [4, 2]];
    const groupOf = (i: number): ParameterGroup => settings.groups?.[i < 15 ? 0 : i < 16 ? 1 : 2] ?? { rate: 1, decays: true };
    const initial = shapes.map((shape) => random(shape));
    const reference = new Reference(Float64Array.from(initial.flatMap(({ values }) => [...values])));
    const before = memory().numTensors;
    const parameters = initial.map((operand) => tidy(() => variable(toTensor(operand))));
    const state = createAdamW(parameters);
    for (let step = 0; step < 5; step++) {
      const drawn = shapes.map((shape) => random(shape, 3));
      const gradients = drawn.map(toTensor);
      const { gradNorm } = adamW(parameters, gradients, state, { ...settings, learningRate: settings.learningRate / (step + 1) });
      const norm = reference.update(Float64Array.from(drawn.flatMap(({ values }) => [...values])), { ...settings, learningRate: settings.learningRate / (step + 1) }, groupOf);
      expectClose(await gradNorm.data(), [norm], tolerance, 'gradient norm');
      for (const tensor of [...gradients, gradNorm]) tensor.dispose();
    }
    const values = (await Promise.all(parameters.map((parameter) => parameter.data()))).flatMap((part) => [...part]);
    expectClose(values, reference.values, backend === 'cuda' ? 1e-4 : tolerance, 'parameters'); // float32 on every backend
    expect(state.step).toBe(5);
    for (const parameter of parameters) parameter.dispose();
    disposeAdamW(state);
    expect(memory().numTensors - before).toBe(0);
  });

  it('leaves parameters alone that have no gradient and no decay', async () => {
    const parameter = variable(ones([3]));
    const state = createAdamW([parameter]);
    adamW([parameter], [zeros([3])], state, { ...options, weightDecay: 0 });
    expect([...(await parameter.data())]).toEqual([1, 1, 1]);
  });

  it('leaves parameters and moments alone where a gradient is not finite', async () => {
    const parameter = variable(ones([3]));
    const state = createAdamW([parameter]);
    const { gradNorm } = adamW([parameter], [tensor1d([1, NaN, 1])], state, options);
    expect((await gradNorm.data())[0]).toBeNaN();
    expect([...(await parameter.data()), ...(await state.m.data()), ...(await state.v.data())]).toEqual([1, 1, 1, 0, 0, 0, 0, 0, 0]);
  });

  it('names what does not fit', () => {
    const parameter = variable(ones([3]));
    const state = createAdamW([parameter]);
    const update = (gradients: Tensor[]) => () => adamW([parameter], gradients, state, options);
    expect(update([])).toThrow('adamW: gradients: expected 1, got 0');
    expect(update([ones([2])])).toThrow('adamW: gradients[0]: expected shape [3], got [2]');
    expect(() => adamW([parameter], [ones([3])], state, { ...options, groups: [] })).toThrow('adamW: groups: expected 1, got 0');
    expect(state.step).toBe(0);
  });
});
