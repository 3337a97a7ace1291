import { concat, dispose, ones, zeros, type Tensor, type Tensor1D, type Tensor2D } from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { adaptedLinears } from '../../engine/tensor/adapted-linear.js';
import type { DoraBranch } from '../../engine/tensor/dora-linear.js';
import { disposeWeight, freezeWeight } from '../../engine/tensor/frozen-weight.js';
import { quantizedLinears } from '../../engine/tensor/quantized-linear.js';
import { rmsNormBeside } from '../../engine/tensor/rms-norm.js';
import { describeBackends } from '../kit/backends.js';
import { random, toTensor } from '../kit/check-op.js';
import { expectSameOp } from '../kit/same-op.js';

const [inner, outs, eps] = [12, [7, 4], 1e-5];
/** Ranks of the layers' branches, 0 for none. */
const settings = [
  { rows: 5, ranks: [3, 2], rate: 0.4, dora: false, beside: true },
  { rows: 5, ranks: [3, 2], rate: 0.4, dora: false, beside: false },
  { rows: 6, ranks: [0, 2], rate: 0, dora: false, beside: true },
  { rows: 1, ranks: [0, 0], rate: 0, dora: false, beside: true },
  { rows: 5, ranks: [2, 2], rate: 0.3, dora: true, beside: true },
];

describeBackends('adaptedLinears of a normed input', ({ tolerance }) => {
  it.each(settings)('are those of its norm: ranks $ranks, dropout $rate, rows $rows, DoRA $dora, the stream goes on $beside', async ({ rows, ranks, rate, dora, beside }) => {
    const weights = outs.map((out) => freezeWeight(random([out, inner]).values, [out, inner], { dtype: 'int8' }));
    const norm = toTensor(random([inner])) as Tensor1D, magnitude = ones([outs[0]]) as Tensor1D;
    const tensors = [[rows, inner], [rows, outs[0]], [outs[1]], ...outs.flatMap((out, i) => (ranks[i] > 0 ? [[ranks[i], inner], [out, ranks[i]]] : []))].map((shape) => toTensor(random(shape)));
    const run = (isFused: boolean) => (...[x, residual, bias, ...factors]: Tensor[]): Tensor => {
      const own = [...factors] as Tensor2D[];
      const members = weights.map((weight, i) => {
        const branch = ranks[i] > 0 ? { a: own.shift()!, b: own.shift()!, scale: 1.5 + i, dropout: { rate, key: { seed: 5, step: 6, stream: i } } } : undefined;
        const lora = branch && dora && i === 0 ? ({ ...branch, magnitude } as DoraBranch) : branch;
        return { weight, lora, residual: i === 0 ? residual : undefined, bias: i === 1 ? (bias as Tensor1D) : undefined };
      });
      const separate = (): Tensor[] => {
        const [stream, normed] = rmsNormBeside(x as Tensor2D, norm, eps);
        return [stream, ...adaptedLinears(normed, members)];
      };
      const results = isFused ? adaptedLinears({ x: x as Tensor2D, norm, eps }, members) : separate();
      return concat(beside ? results : results.slice(1), -1);
    };
    const [separate, fused] = [run(false), run(true)];
    await expectSameOp(separate, fused, tensors, tolerance);
    dispose([...tensors, norm, magnitude]);
    weights.forEach(disposeWeight);
  });

  it('names both shapes on a mismatch', () => {
    const weight = freezeWeight(random([4, 6]).values, [4, 6], { dtype: 'f32' });
    expect(() => quantizedLinears({ x: ones([2, 6]), norm: ones([5]), eps }, [{ weight }])).toThrow('quantizedLinear: norm: expected shape [6], got [5]');
    expect(() => quantizedLinears({ x: zeros([2, 5]), norm: ones([5]), eps }, [{ weight }])).toThrow('quantizedLinear: x: expected [...,6] for weight [4,6], got [2,5]');
  });
});
