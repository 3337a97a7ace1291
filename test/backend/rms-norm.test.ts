import { concat, ones, tensor1d, zeros, type Tensor1D, type Tensor2D } from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { rmsNorm, rmsNormBeside } from '../../engine/tensor/rms-norm.js';
import { describeBackends } from '../kit/backends.js';
import { checkOp, random } from '../kit/check-op.js';

describeBackends('rmsNorm', ({ tolerance }) => {
  it.each([[[2, 3, 20]], [[1, 1, 7]], [[5, 33]]])('divides rows of %j by their root mean square', async (shape) => {
    const size = shape.at(-1)!;
    await checkOp({
      operands: { x: random(shape), weight: random([size]) },
      op: ({ x, weight }) => rmsNorm(x, weight as Tensor1D, 1e-5),
      reference: ({ x, weight }) =>
        x.map((value, i) => {
          const start = i - (i % size);
          const square = x.subarray(start, start + size).reduce((sum, v) => sum + v * v, 0) / size;
          return (value / Math.sqrt(square + 1e-5)) * weight[i % size];
        }),
      tolerance,
    });
  });

  it('hands x on beside its normalised rows, and sums the gradients of both', async () => {
    const [rows, size] = [4, 9];
    const weight = random([size]).values;
    await checkOp({
      operands: { x: random([rows, size]) },
      op: ({ x }) => concat(rmsNormBeside(x as Tensor2D, tensor1d(weight), 1e-5), 0),
      reference: ({ x }) => {
        const square = (row: number): number => x.subarray(row * size, (row + 1) * size).reduce((sum, v) => sum + v * v, 0) / size;
        return [...x, ...x.map((value, i) => (value / Math.sqrt(square(Math.floor(i / size)) + 1e-5)) * weight[i % size])];
      },
      tolerance,
    });
  });

  it('gives zeros for a row of zeros', async () => {
    const y = rmsNorm(zeros([1, 4]), ones([4]), 1e-5);
    expect([...(await y.data())]).toEqual([0, 0, 0, 0]);
  });

  it('names both shapes on a mismatch', () =>
    expect(() => rmsNorm(ones([1, 4]), ones([2]))).toThrow('rmsNorm: weight [2] does not match the last axis of x [1,4]'));
});
