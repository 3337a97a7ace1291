import { add, tensor1d, variable, zeros, type Tensor1D, type Tensor2D, type Variable } from '@tensorflow/tfjs-core';
import { adamW, createAdamW } from '../../../engine/tensor/adam-w.js';
import { adaptedLinear } from '../../../engine/tensor/adapted-linear.js';
import { embedding } from '../../../engine/tensor/embedding.js';
import { freezeWeight } from '../../../engine/tensor/frozen-weight.js';
import { headCrossEntropy } from '../../../engine/tensor/head-cross-entropy.js';
import { uniformNoise } from '../../../engine/tensor/uniform-noise.js';
import type { DenseWeight } from '../../../engine/tensor/weight-types.js';
import { withGradients, type GpuCase, type Random } from './compare.js';

const trained = (value: Tensor2D): DenseWeight => ({ kind: 'dense', shape: value.shape, value, trained: true });
const [rows, inner, out, rank] = [33, 128, 96, 8];

/** Operands of a layer whose rows have trained lengths. */
const operands = (random: Random) =>
  [random.tensor([rows, inner]), random.tensor([rank, inner], 0.1), random.tensor([out, rank], 0.1), add(random.tensor([out], 0.1), 5), random.tensor([out])] as [Tensor2D, Tensor2D, Tensor2D, Tensor1D, Tensor1D];

/** What an adapter trains beside low-rank branches. */
export const adaptedCases: GpuCase[] = [
  ...[0, 0.1].map((rate): GpuCase => ({
    name: `adaptedLinear with trained row lengths on nf4, dropout ${rate}`,
    run: (random) => {
      const weight = freezeWeight(random.values(out * inner, 0.5), [out, inner], { dtype: 'nf4', doubleQuant: true });
      const dropout = rate > 0 ? { rate, key: { seed: 3, step: 2, stream: 1 } } : undefined;
      return withGradients(random, operands(random), (x, a, b, magnitude, bias) =>
        adaptedLinear(x, weight, { lora: { a: a as Tensor2D, b: b as Tensor2D, scale: 2, magnitude: magnitude as Tensor1D, dropout }, bias: bias as Tensor1D }));
    },
  })),
  {
    name: 'headCrossEntropy of a head with trained row lengths',
    tolerance: 2e-2, // the gradient of a length is a sum over all rows of products of two values that were each rounded to bf16
    run: (random) => {
      const weight = freezeWeight(random.values(out * inner, 0.1), [out, inner], { dtype: 'f32' });
      const [x, a, b, magnitude] = operands(random);
      const labels = tensor1d(Array.from({ length: rows }, (_, i) => (i % 5 === 0 ? -1 : i)), 'int32');
      return withGradients(random, [x, a, b, magnitude], (hidden, down, up, lengths) =>
        headCrossEntropy(hidden as Tensor2D, weight, labels, { lora: { a: down as Tensor2D, b: up as Tensor2D, scale: 2, magnitude: lengths as Tensor1D } }));
    },
  },
  {
    name: 'headCrossEntropy of a head that is trained in full',
    run: (random) => {
      const labels = tensor1d(Array.from({ length: rows }, (_, i) => (i % 7 === 0 ? -1 : i)), 'int32');
      return withGradients(random, [random.tensor([rows, inner]), random.tensor([out, inner], 0.3)], (hidden, head) => headCrossEntropy(hidden as Tensor2D, trained(head as Tensor2D), labels));
    },
  },
  {
    name: 'an embedding that is trained in full',
    run: (random) => {
      const ids = random.integers<Tensor2D>([3, 40], 17);
      return withGradients(random, [random.tensor([17, 64])], (table) => embedding(trained(table as Tensor2D), ids));
    },
  },
  { name: 'uniformNoise', tolerance: 1e-6, run: () => [uniformNoise([5, 7, 3], 0.25, { seed: 2 ** 40 + 1, step: 3, stream: 4095 })] },
  {
    name: 'AdamW with a learning rate of its own for each parameter',
    tolerance: 1e-5,
    run: (random) => {
      const parameters = [[8, 700], [9, 4], [5000]].map((shape) => variable(random.tensor(shape))) as Variable[];
      const state = createAdamW(parameters);
      const groups = [{ rate: 1, decays: true }, { rate: 16, decays: true }, { rate: 4, decays: false }];
      for (let step = 0; step < 3; step++) {
        adamW(parameters, parameters.map(({ shape }) => random.tensor(shape)), state, { learningRate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.1, maxGradNorm: 1, groups });
      }
      const results = parameters.map((parameter) => add(parameter, zeros(parameter.shape)));
      [...parameters, state.m, state.v].forEach((x) => x.dispose());
      return results;
    },
  },
];
