import { concat, matMul, mul, tensor1d, tensor2d, tidy, variable, type Tensor, type Tensor1D, type Tensor2D } from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { adaptedLinear } from '../../engine/tensor/adapted-linear.js';
import { dropoutMask } from '../../engine/tensor/dropout-mask.js';
import { rowNorms, rowSquares } from '../../engine/tensor/dora-linear.js';
import { embedding } from '../../engine/tensor/embedding.js';
import { disposeWeight, freezeWeight, type BaseDtype } from '../../engine/tensor/frozen-weight.js';
import { headCrossEntropy } from '../../engine/tensor/head-cross-entropy.js';
import type { DenseWeight } from '../../engine/tensor/weight-types.js';
import { describeBackends } from '../kit/backends.js';
import { checkOp, expectClose, random, timesTransposed, toTensor, type Numbers } from '../kit/check-op.js';

const [rows, out, inner, rank, scale] = [5, 7, 6, 2, 1.5];
const dropout = { rate: 0.4, key: { seed: 7, step: 3, stream: 2 } };
const rowLength = (values: Numbers, row: number, columns: number): number => Math.hypot(...Array.from({ length: columns }, (_, i) => values[row * columns + i]));

/** W + scale · B·A in float64. */
function adapted(weight: Numbers, a: Numbers, b: Numbers): Float64Array {
  return Float64Array.from({ length: out * inner }, (_, i) => {
    const [row, column] = [Math.floor(i / inner), i % inner];
    let sum = weight[i];
    for (let r = 0; r < rank; r++) sum += scale * b[row * rank + r] * a[r * inner + column];
    return sum;
  });
}

describeBackends('adaptedLinear', ({ tolerance }) => {
  it.each([['without dropout', undefined], ['with dropout', dropout]])('brings rows of the weight to their trained lengths, the norm a constant to the gradient, %s', async (_name, drop) => {
    const base = random([out, inner]);
    const weight = freezeWeight(base.values, [out, inner], { dtype: 'f32' });
    const operands = { x: random([rows, inner]), a: random([rank, inner]), b: random([out, rank]), magnitude: random([out]), bias: random([out]) };
    const sum = adapted(base.values, operands.a.values, operands.b.values);
    const norms = Array.from({ length: out }, (_, row) => rowLength(sum, row, inner)); // of the operands as they are: a constant
    rowSquares(weight); // kept with the weight
    const mask = drop ? [...(await tidy(() => dropoutMask([rows, inner], drop.rate, drop.key)).data())] : [];
    try {
      await checkOp({
        operands, tolerance,
        op: ({ x, a, b, magnitude, bias }) =>
          adaptedLinear(x, weight, { lora: { a: a as Tensor2D, b: b as Tensor2D, scale, magnitude: magnitude as Tensor1D, dropout: drop }, bias: bias as Tensor1D }),
        reference: ({ x, a, b, magnitude, bias }) => {
          const dropped = drop ? x.map((value, i) => value * mask[i]) : x;
          const [plain, low, high] = [timesTransposed(x, base.values, rows, inner, out), timesTransposed(dropped, base.values, rows, inner, out), timesTransposed(dropped, adapted(base.values, a, b), rows, inner, out)];
          return plain.map((value, i) => {
            const s = magnitude[i % out] / norms[i % out];
            return value + (s - 1) * low[i] + s * (high[i] - low[i]) + bias[i % out];
          });
        },
      });
    } finally {
      disposeWeight(weight);
    }
  });

  it.each<BaseDtype>([{ dtype: 'f32' }, { dtype: 'int8' }, { dtype: 'nf4', doubleQuant: true }])('knows the row norms of base $dtype and branch without their sum', async (base) => {
    const shape: [number, number] = [16, 64];
    const weight = freezeWeight(random(shape).values, shape, base);
    const [a, b] = [toTensor(random([rank, 64])), toTensor(random([16, rank]))] as [Tensor2D, Tensor2D];
    const eye = tensor2d(Float32Array.from({ length: 64 * 64 }, (_, i) => Number(i % 65 === 0)), [64, 64]);
    const whole = await tidy(() => concat([adaptedLinear(eye, weight, { lora: { a, b, scale } })])).data();
    const expected = Array.from({ length: 16 }, (_, row) => Math.hypot(...Array.from({ length: 64 }, (_unused, column) => whole[column * 16 + row])));
    expectClose(await rowNorms(weight, a, b, scale).data(), expected, tolerance, 'norms');
    disposeWeight(weight);
  });

  it('names a magnitude that does not fit', () => {
    const weight = freezeWeight(random([out, inner]).values, [out, inner], { dtype: 'f32' });
    const lora = { a: toTensor(random([rank, inner])) as Tensor2D, b: toTensor(random([out, rank])) as Tensor2D, scale, magnitude: toTensor(random([3])) as Tensor1D };
    expect(() => adaptedLinear(toTensor(random([rows, inner])), weight, { lora })).toThrow('adaptedLinear: lora.magnitude: expected shape [7], got [3]');
    disposeWeight(weight);
  });
});

const trained = (value: Tensor): DenseWeight => ({ kind: 'dense', shape: value.shape as [number, number], value: value as Tensor2D, trained: true });

describeBackends('weights that are trained in full', ({ tolerance }) => {
  const labels = [2, 0, 4, 4, 3];
  /** Σ -log softmax(hidden · headᵀ)[label] over labels that are not negative. */
  const reference = (hidden: Numbers, head: Numbers, of: number[]): number[] => {
    const logits = timesTransposed(hidden, head, rows, inner, out);
    return [of.reduce((sum, label, row) => {
      const scores = [...logits.subarray(row * out, (row + 1) * out)];
      return label < 0 ? sum : sum + Math.log(scores.reduce((total, score) => total + Math.exp(score), 0)) - scores[label];
    }, 0)];
  };

  it.each([['all count', labels], ['two do not count', [2, -1, 4, -1, 3]]])('headCrossEntropy: gradients flow to hidden and head, rows: %s', async (_name, of) => {
    await checkOp({
      operands: { hidden: random([rows, inner]), head: random([out, inner]) }, tolerance,
      op: ({ hidden, head }) => headCrossEntropy(hidden as Tensor2D, trained(head), tensor1d(of, 'int32')),
      reference: ({ hidden, head }) => reference(hidden, head, of),
    });
  });

  it('headCrossEntropy: a head with trained row lengths', async () => {
    const base = random([out, inner]);
    const weight = freezeWeight(base.values, [out, inner], { dtype: 'f32' });
    rowSquares(weight);
    const operands = { hidden: random([rows, inner]), a: random([rank, inner]), b: random([out, rank]), magnitude: random([out]) };
    const sum = adapted(base.values, operands.a.values, operands.b.values);
    const norms = Array.from({ length: out }, (_, row) => rowLength(sum, row, inner));
    await checkOp({
      operands, tolerance,
      op: ({ hidden, a, b, magnitude }) => headCrossEntropy(hidden as Tensor2D, weight, tensor1d(labels, 'int32'), { lora: { a: a as Tensor2D, b: b as Tensor2D, scale, magnitude: magnitude as Tensor1D } }),
      reference: ({ hidden, a, b, magnitude }) => reference(hidden, adapted(base.values, a, b).map((value, i) => (value * magnitude[Math.floor(i / inner)]) / norms[Math.floor(i / inner)]), labels),
    }).finally(() => disposeWeight(weight));
  });

  it('embedding: the gradient is added up over equal tokens', async () => {
    const ids = [1, 4, 1, 0];
    await checkOp({
      operands: { table: random([5, 3]) }, tolerance,
      op: ({ table }) => embedding(trained(table), tensor2d(ids, [2, 2], 'int32')),
      reference: ({ table }) => ids.flatMap((id) => [...table.subarray(id * 3, id * 3 + 3)]),
    });
  });

  it('adaptedLinear: a product with the variable as it is now', async () => {
    const value = variable(toTensor(random([out, inner])));
    const x = toTensor(random([rows, inner])) as Tensor2D;
    value.assign(mul(value, 2));
    expectClose(await adaptedLinear(x, trained(value)).data(), await matMul(x, value as Tensor as Tensor2D, false, true).data(), tolerance, 'product');
  });
});
