import { concat, dispose, ones, type Tensor, type Tensor1D, type Tensor2D } from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { adaptedLinears } from '../../engine/tensor/adapted-linear.js';
import type { DoraBranch } from '../../engine/tensor/dora-linear.js';
import { disposeWeight, freezeWeight } from '../../engine/tensor/frozen-weight.js';
import { quantizedLinears } from '../../engine/tensor/quantized-linear.js';
import { swiGlu, type GatedInput } from '../../engine/tensor/swi-glu.js';
import { takeGradients } from '../../engine/tensor/take-gradients.js';
import { describeBackends } from '../kit/backends.js';
import { expectClose, random, toTensor } from '../kit/check-op.js';
import { expectSameOp } from '../kit/same-op.js';

const [inner, outs] = [12, [7, 4]];
/** Ranks of the layers' branches, 0 for none. */
const settings = [
  { lead: [5], ranks: [3, 2], rate: 0.4, dora: false },
  { lead: [2, 3], ranks: [0, 2], rate: 0, dora: false },
  { lead: [1], ranks: [0, 0], rate: 0, dora: false },
  { lead: [5], ranks: [2, 2], rate: 0.3, dora: true },
];
type Layers = (input: Tensor | GatedInput) => Tensor;

describeBackends('adaptedLinears of a gated activation', ({ tolerance }) => {
  it.each(settings)('are those of its product: ranks $ranks, dropout $rate, rows $lead, DoRA $dora', async ({ lead, ranks, rate, dora }) => {
    const weights = outs.map((out) => freezeWeight(random([out, inner]).values, [out, inner], { dtype: 'int8' }));
    const tensors = [[...lead, inner], [...lead, inner], [...lead, outs[0]], [outs[1]], ...outs.flatMap((out, i) => [[ranks[i], inner], [out, ranks[i]]])]
      .map((shape) => toTensor(random(shape)));
    const magnitude = ones([outs[0]]) as Tensor1D;
    const layers = (residual: Tensor, bias: Tensor, factors: Tensor[]): Layers => (input) =>
      concat(adaptedLinears(input, weights.map((weight, i) => {
        const [a, b] = factors.slice(2 * i, 2 * i + 2) as Tensor2D[], branch = { a, b, scale: 1.5 + i, dropout: { rate, key: { seed: 5, step: 6, stream: i } } };
        const lora = ranks[i] === 0 ? undefined : dora && i === 0 ? ({ ...branch, magnitude } as DoraBranch) : branch;
        return { weight, lora, residual: i === 0 ? residual : undefined, bias: i === 1 ? (bias as Tensor1D) : undefined };
      })), -1);
    const run = (join: (gate: Tensor, up: Tensor) => Tensor | GatedInput) => (...[gate, up, residual, bias, ...factors]: Tensor[]): Tensor =>
      layers(residual, bias, factors)(join(gate, up));
    const used = tensors.filter(({ size }) => size > 0);
    const all = (op: (...tensors: Tensor[]) => Tensor) => (...given: Tensor[]): Tensor => op(...tensors.map((tensor) => given[used.indexOf(tensor)] ?? tensor));
    const [separate, fused] = [all(run((gate, up) => swiGlu(gate, up))), all(run((gate, up) => ({ gate, up })))];
    await expectSameOp(separate, fused, used, tolerance);
    dispose([...tensors, magnitude]);
    weights.forEach(disposeWeight);
  });

  it('have their gradients where nothing reads the result', async () => {
    const weight = freezeWeight(random([4, inner]).values, [4, inner], { dtype: 'int8' });
    const tensors = [[3, inner], [3, inner], [2, inner], [4, 2]].map((shape) => toTensor(random(shape)));
    const run = (unread: boolean) => (gate: Tensor, up: Tensor, a: Tensor, b: Tensor): Tensor =>
      quantizedLinears({ gate, up }, [{ weight, lora: { a: a as Tensor2D, b: b as Tensor2D, scale: 2 }, unread }])[0];
    const dy = toTensor(random([3, 4]));
    const [read, unread] = [false, true].map((is) => takeGradients(() => run(is)(...(tensors as [Tensor, Tensor, Tensor, Tensor])), tensors, dy.clone()).gradients);
    for (const [i, gradient] of read.entries()) expectClose(await unread[i].data(), await gradient.data(), tolerance, `gradient ${i}`);
  });

  it('names both shapes on a mismatch', () => {
    const weight = freezeWeight(random([4, 6]).values, [4, 6], { dtype: 'f32' });
    expect(() => quantizedLinears({ gate: ones([2, 6]), up: ones([3, 6]) }, [{ weight }])).toThrow('quantizedLinear: up: expected shape [2,6] of gate, got [3,6]');
    expect(() => quantizedLinears({ gate: ones([2, 5]), up: ones([2, 5]) }, [{ weight }])).toThrow('quantizedLinear: gate: expected [...,6] for weight [4,6], got [2,5]');
  });
});
