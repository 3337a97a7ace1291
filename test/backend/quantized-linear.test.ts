import { grad, memory, ones, tidy, type Tensor, type Tensor1D, type Tensor2D } from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { philoxWords } from '../../engine/random/philox.js';
import { dequantize, disposeWeight, freezeWeight, type BaseDtype } from '../../engine/tensor/frozen-weight.js';
import { quantizedLinear } from '../../engine/tensor/quantized-linear.js';
import { describeBackends } from '../kit/backends.js';
import { checkOp, random, timesTransposed, toTensor, type Numbers } from '../kit/check-op.js';

const key = { seed: 5, step: 6, stream: 7 };

/** x dropped by the definition of dropoutMask. */
const dropped = (x: Float64Array, rate: number): Float64Array => {
  const words = philoxWords(key, x.length);
  return x.map((value, i) => ((words[i] & 0x7fffff) / 2 ** 23 >= Math.fround(rate) ? value / (1 - rate) : 0));
};
const plus = (a: Float64Array, b: Numbers, factor = 1): Float64Array => a.map((value, i) => value + factor * b[i]);

const bases: BaseDtype[] = [{ dtype: 'nf4', doubleQuant: true }, { dtype: 'int8' }, { dtype: 'bf16' }, { dtype: 'f32' }];

describeBackends('quantizedLinear', ({ tolerance }) => {
  it.each(bases)('multiplies by a frozen matrix in $dtype, resident or not, with bias', async (base) => {
    const [out, inner, rows] = [9, 21, 4];
    for (const resident of [false, true]) {
      const weight = freezeWeight(random([out, inner]).values, [out, inner], base, { resident });
      const matrix = dequantize(weight);
      const w = await matrix.data();
      await checkOp({
        operands: { x: random([2, rows / 2, inner]), bias: random([out]) },
        op: ({ x, bias }) => quantizedLinear(x, weight, { bias: bias as Tensor1D }),
        reference: ({ x, bias }) => timesTransposed(x, w, rows, inner, out).map((value, i) => value + bias[i % out]),
        tolerance,
      });
      matrix.dispose();
      disposeWeight(weight);
    }
  });

  it.each([
    { rows: 5, inner: 18, out: 7, rank: 3, rate: 0 },
    { rows: 6, inner: 10, out: 12, rank: 2, rate: 0.4 },
    { rows: 1, inner: 3, out: 1, rank: 1, rate: 0.1 },
  ])('adds the branch of rank $rank with dropout $rate over $rows rows', async ({ rows, inner, out, rank, rate }) => {
    const weight = freezeWeight(random([out, inner]).values, [out, inner], { dtype: 'nf4', doubleQuant: true });
    const matrix = dequantize(weight);
    const w = await matrix.data();
    const dropout = rate > 0 ? { rate, key } : undefined;
    await checkOp({
      operands: { x: random([rows, inner]), a: random([rank, inner]), b: random([out, rank]) },
      op: ({ x, a, b }) => quantizedLinear(x, weight, { lora: { a: a as Tensor2D, b: b as Tensor2D, scale: 1.5, dropout } }),
      reference: ({ x, a, b }) => {
        const low = timesTransposed(rate > 0 ? dropped(x, rate) : x, a, rows, inner, rank);
        return plus(timesTransposed(x, w, rows, inner, out), timesTransposed(low, b, rows, rank, out), 1.5);
      },
      tolerance,
    });
    matrix.dispose();
    disposeWeight(weight);
  });

  it('leaves out the gradient that nobody needs', () => {
    const weight = freezeWeight(random([4, 6]).values, [4, 6], { dtype: 'f32' });
    const x = toTensor(random([3, 6]));
    const [a, b] = [toTensor(random([2, 6])), toTensor(random([4, 2]))];
    const before = memory().numTensors;
    const da = tidy(() => grad((a: Tensor) => quantizedLinear(x, weight, { lora: { a: a as Tensor2D, b: b as Tensor2D, scale: 1 } }))(a));
    expect(da.shape).toEqual([2, 6]);
    expect(memory().numTensors - before).toBe(1);
  });

  it('names the shapes on a mismatch', () => {
    const weight = freezeWeight(random([4, 6]).values, [4, 6], { dtype: 'f32' });
    const lora = { a: ones([2, 6]) as Tensor2D, b: ones([4, 2]) as Tensor2D, scale: 1 };
    expect(() => quantizedLinear(ones([3, 5]), weight)).toThrow('quantizedLinear: x: expected [...,6] for weight [4,6], got [3,5]');
    expect(() => quantizedLinear(ones([3, 6]), weight, { bias: ones([6]) })).toThrow('quantizedLinear: bias: expected shape [4], got [6]');
    expect(() => quantizedLinear(ones([3, 6]), weight, { lora: { ...lora, a: ones([2, 4]) } })).toThrow('quantizedLinear: lora.a: expected shape [rank,6], got [2,4]');
    expect(() => quantizedLinear(ones([3, 6]), weight, { lora: { ...lora, b: ones([4, 3]) } })).toThrow('quantizedLinear: lora.b: expected rank 2 as in lora.a, got 3');
  });
});
