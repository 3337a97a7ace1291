import { concat, grad, memory, ones, tidy, type Tensor, type Tensor1D, type Tensor2D } from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { dequantize, disposeWeight, freezeWeight, type BaseDtype } from '../../engine/tensor/frozen-weight.js';
import { quantizedLinear, quantizedLinears } from '../../engine/tensor/quantized-linear.js';
import { describeBackends } from '../kit/backends.js';
import { checkOp, random, timesTransposed, toTensor, type Numbers } from '../kit/check-op.js';
import { dropoutFactors } from '../kit/dropout.js';

const key = { seed: 5, step: 6, stream: 7 };

/** x dropped by the definition of dropoutMask. */
const dropped = (x: Float64Array, rate: number): Float64Array => {
  const factors = dropoutFactors(key, rate, x.length);
  return x.map((value, i) => value * factors[i]);
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

  it.each([0, 0.4])('works on layers of one input together: branches of any rank or none, dropout %d, biases and residuals', async (rate) => {
    const [rows, inner, outs, ranks] = [5, 12, [7, 9, 4], [3, 0, 2]];
    const weights = outs.map((out) => freezeWeight(random([out, inner]).values, [out, inner], { dtype: 'int8' }));
    const matrices = await Promise.all(weights.map(async (weight) => Float64Array.from(await tidy(() => dequantize(weight)).data())));
    const keys = [key, key, { ...key, stream: 8 }];
    const dropped = (x: Float64Array, i: number): Float64Array => {
      const factors = dropoutFactors(keys[i], rate, x.length);
      return x.map((value, j) => value * factors[j]);
    };
    await checkOp<string>({
      operands: {
        x: random([rows, inner]), bias1: random([outs[1]]), bias2: random([outs[2]]), residual0: random([rows, outs[0]]), residual2: random([rows, outs[2]]),
        a0: random([3, inner]), b0: random([outs[0], 3]), a2: random([2, inner]), b2: random([outs[2], 2]),
      },
      op: ({ x, ...own }) => {
        const ys = quantizedLinears(x, weights.map((weight, i) => ({
          weight, bias: own[`bias${i}`] as Tensor1D | undefined, residual: own[`residual${i}`] as Tensor | undefined,
          lora: ranks[i] ? { a: own[`a${i}`] as Tensor2D, b: own[`b${i}`] as Tensor2D, scale: 1 + i, dropout: { rate, key: keys[i] } } : undefined,
        })));
        return concat(ys, 1);
      },
      reference: ({ x, ...own }) => {
        const ys = outs.map((out, i) => {
          let y = timesTransposed(x, matrices[i], rows, inner, out);
          if (ranks[i]) {
            const low = timesTransposed(rate > 0 ? dropped(x, i) : x, own[`a${i}`], rows, inner, ranks[i]);
            y = plus(y, timesTransposed(low, own[`b${i}`], rows, ranks[i], out), 1 + i);
          }
          if (own[`bias${i}`]) y = y.map((value, j) => value + own[`bias${i}`][j % out]);
          return own[`residual${i}`] ? plus(y, own[`residual${i}`]) : y;
        });
        return Array.from({ length: rows }, (_, row) => ys.flatMap((y, i) => [...y.slice(row * outs[i], (row + 1) * outs[i])])).flat();
      },
      tolerance,
    });
    weights.forEach(disposeWeight);
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
