import { add, engine, gather, keep, memory, mul, ones, reshape, scalar, sum, tensor1d, tensor2d, tidy, type Tensor } from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { selectBackend } from '../../engine/tensor/backends.js';
import { swiGlu } from '../../engine/tensor/swi-glu.js';
import { takeGradients } from '../../engine/tensor/take-gradients.js';

beforeAll(() => selectBackend('cpu'));

/** Values used several times, gradients that pass through untouched, a part that leads nowhere, and tensors of different shapes added. */
const computation = (x: Tensor, y: Tensor) => () => {
  const wide = add(x, y);
  mul(wide, 3);
  const rows = reshape(swiGlu(wide, add(wide, x)), [-1]);
  return sum(add(gather(add(rows, rows), tensor1d([0, 3, 3, 5], 'int32')), tensor1d([1])));
};

describe('takeGradients', () => {
  it("gives tfjs's gradients", () => {
    tidy(() => {
      const x = tensor2d([[1, -2, 3], [0.5, 2, -1]]), y = tensor2d([[0.25, 1, -1]]);
      const expected = engine().gradients(computation(x, y), [x, y], scalar(2));
      const { value, gradients } = takeGradients(computation(x, y), [x, y], scalar(2));
      expect([...value.dataSync()]).toEqual([...expected.value.dataSync()]);
      gradients.forEach((gradient, i) => expect([...gradient.dataSync()]).toEqual([...expected.grads[i].dataSync()]));
    });
  });

  it('leaves nothing behind but the value and the gradients, also when the computation fails', () => {
    const x = keep(ones([2, 3])), y = keep(ones([1, 3]));
    const before = memory().numTensors;
    const { value, gradients } = takeGradients(computation(x, y), [x, y], scalar(1));
    expect(memory().numTensors - before).toBe(3);
    for (const tensor of [value, ...gradients]) tensor.dispose();

    const dy = scalar(1);
    const failing = () => {
      computation(x, y)();
      throw new Error('no memory');
    };
    expect(() => takeGradients(failing, [x], dy)).toThrow('no memory');
    dy.dispose();
    expect(memory().numTensors).toBe(before);
  });

  it('refuses a tensor on which the result does not depend', () => {
    tidy(() => {
      const x = ones([2, 3]);
      expect(() => takeGradients(() => sum(mul(x, x)), [x, ones([1])], scalar(1))).toThrow('expected tensors that the result depends on');
    });
  });
});
