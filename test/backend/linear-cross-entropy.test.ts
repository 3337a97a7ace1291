import { memory, ones, tensor1d, tidy, type Tensor2D } from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { dequantize, disposeWeight, freezeWeight } from '../../engine/tensor/frozen-weight.js';
import { linearCrossEntropy } from '../../engine/tensor/linear-cross-entropy.js';
import { describeBackends } from '../kit/backends.js';
import { checkOp, random, randomInt, timesTransposed, toTensor, type Numbers } from '../kit/check-op.js';
import { dropoutFactors } from '../kit/dropout.js';

const key = { seed: 15, step: 16, stream: 17 };
const rate = 0.3;
const dropped = (x: Float64Array): Float64Array => {
  const factors = dropoutFactors(key, rate, x.length);
  return x.map((value, i) => value * factors[i]);
};

/** Σ log Σ exp(logits) - logits[label] in float64, over the rows whose label is not negative. */
function lossOf(logits: Numbers, labels: readonly number[], vocabulary: number): number {
  return labels.reduce((sum, label, i) => {
    if (label < 0) return sum;
    const row = Array.from({ length: vocabulary }, (_, j) => logits[i * vocabulary + j]);
    const most = Math.max(...row);
    return sum + most + Math.log(row.reduce((total, value) => total + Math.exp(value - most), 0)) - row[label];
  }, 0);
}

describeBackends('linearCrossEntropy', ({ tolerance }) => {
  it('takes as many rows at a time as the logits that may exist allow, at least one', async () => {
    const head = freezeWeight(random([13, 6], 2).values, [13, 6], { dtype: 'bf16' }), hidden = toTensor(random([7, 6], 2)) as Tensor2D;
    const labels = tensor1d(Array.from({ length: 7 }, () => randomInt(13)), 'int32');
    const lossWith = async (options: { chunk?: number; logits?: number }): Promise<number> => (await linearCrossEntropy(hidden, head, labels, options).data())[0];
    expect(await lossWith({ logits: 3 * 13 + 12 })).toBe(await lossWith({ chunk: 3 }));
    expect(await lossWith({ logits: 1 })).toBe(await lossWith({ chunk: 1 }));
  });

  it.each([
    { rows: 1, size: 5, vocabulary: 7, chunk: undefined },
    { rows: 7, size: 6, vocabulary: 13, chunk: 3 },
    { rows: 6, size: 9, vocabulary: 11, chunk: 2 },
    { rows: 4, size: 8, vocabulary: 70, chunk: 1 },
  ])('sums the losses of $rows rows in chunks of $chunk', async ({ rows, size, vocabulary, chunk }) => {
    const head = freezeWeight(random([vocabulary, size], 2).values, [vocabulary, size], { dtype: 'bf16' });
    const matrix = dequantize(head);
    const w = await matrix.data();
    const labels = Array.from({ length: rows }, () => randomInt(vocabulary));
    await checkOp({
      operands: { hidden: random([rows, size], 2) },
      op: ({ hidden }) => linearCrossEntropy(hidden as Tensor2D, head, tensor1d(labels, 'int32'), { chunk }),
      reference: ({ hidden }) => [lossOf(timesTransposed(hidden, w, rows, size, vocabulary), labels, vocabulary)],
      tolerance,
    });
    matrix.dispose();
    disposeWeight(head);
  });

  it.each([
    { chunk: undefined, labels: [3, 3, 0, 8, 3] },
    { chunk: 2, labels: [3, 3, 0, 8, 3] },
    { chunk: undefined, labels: [-100, 3, -1, 8, 3] },
    { chunk: 2, labels: [3, 3, -100, -100, 0] },
  ])('trains a branch on the head, with dropout, in chunks of $chunk, for labels $labels', async ({ chunk, labels }) => {
    const [rows, size, vocabulary, rank, scale] = [5, 6, 9, 2, 0.5];
    const head = freezeWeight(random([vocabulary, size]).values, [vocabulary, size], { dtype: 'nf4', doubleQuant: true });
    const matrix = dequantize(head);
    const w = await matrix.data();
    await checkOp({
      operands: { hidden: random([rows, size], 2), a: random([rank, size]), b: random([vocabulary, rank]) },
      op: ({ hidden, a, b }) =>
        linearCrossEntropy(hidden as Tensor2D, head, tensor1d(labels, 'int32'), {
          lora: { a: a as Tensor2D, b: b as Tensor2D, scale, dropout: { rate, key } },
          chunk,
        }),
      reference: ({ hidden, a, b }) => {
        const low = timesTransposed(dropped(hidden), a, rows, size, rank);
        const extra = timesTransposed(low, b, rows, rank, vocabulary);
        const logits = timesTransposed(hidden, w, rows, size, vocabulary).map((value, i) => value + scale * extra[i]);
        return [lossOf(logits, labels, vocabulary)];
      },
      tolerance,
    });
    matrix.dispose();
    disposeWeight(head);
  });

  it('is exact where the label is all but impossible', async () => {
    const head = freezeWeight(Float32Array.of(200, 0, -200), [3, 1], { dtype: 'f32' });
    const loss = tidy(() => linearCrossEntropy(ones([1, 1]), head, tensor1d([2], 'int32')));
    expect((await loss.data())[0]).toBe(400);
  });

  it('keeps nothing but the loss when no gradient is taken', () => {
    const head = freezeWeight(random([5, 4]).values, [5, 4], { dtype: 'f32' });
    const [hidden, labels] = [toTensor(random([3, 4])) as Tensor2D, tensor1d([0, 1, 2], 'int32')];
    const before = memory().numTensors;
    linearCrossEntropy(hidden, head, labels);
    expect(memory().numTensors - before).toBe(1);
  });

  it('names the shapes on a mismatch', () => {
    const head = freezeWeight(random([5, 4]).values, [5, 4], { dtype: 'f32' });
    expect(() => linearCrossEntropy(ones([3, 5]), head, tensor1d([0, 1, 2], 'int32'))).toThrow('linearCrossEntropy: hidden: expected shape [n,4], got [3,5]');
    expect(() => linearCrossEntropy(ones([3, 4]), head, tensor1d([0, 1], 'int32'))).toThrow('linearCrossEntropy: labels: expected shape [3], got [2]');
    expect(() => linearCrossEntropy(ones([3, 4]), head, tensor1d([0, 1, 2], 'float32'))).toThrow('linearCrossEntropy: labels: expected int32, got float32');
  });
});
