import { add, grads, matMul, mul, randomNormal, sum, type Tensor, type Tensor2D } from '@tensorflow/tfjs-core';
import { beforeAll, expect, it } from 'vitest';
import { selectBackend } from '../../engine/tensor/backends.js';
import { dropoutMask } from '../../engine/tensor/dropout-mask.js';
import { dequantize, freezeWeight } from '../../engine/tensor/frozen-weight.js';
import { quantizedLinear } from '../../engine/tensor/quantized-linear.js';
import { relativeError } from '../kit/golden.js';

beforeAll(() => selectBackend());

it('a dropped LoRA branch has the value and the gradients of its definition in plain ops', async () => {
  const normal = (rows: number, columns: number, seed: number): Tensor2D => randomNormal([rows, columns], 0, 1, 'float32', seed);
  const weight = freezeWeight(normal(24, 64, 1).dataSync<'float32'>(), [24, 64], { dtype: 'nf4', doubleQuant: false });
  const [x, a, b, dy] = [normal(10, 64, 2), normal(4, 64, 3), normal(24, 4, 4), normal(10, 24, 5)];
  const scale = 1.5;
  const dropout = { rate: 0.3, key: { seed: 9, step: 2, stream: 7 } };

  const mask = dropoutMask([10, 64], dropout.rate, dropout.key);
  const frozen = dequantize(weight);
  const plain = (x: Tensor, a: Tensor, b: Tensor): Tensor => {
    const low = matMul(mul(x, mask), a, false, true);
    return add(matMul(x, frozen, false, true), mul(matMul(low, b, false, true), scale));
  };
  const fused = (x: Tensor, a: Tensor, b: Tensor): Tensor => quantizedLinear(x, weight, { lora: { a: a as Tensor2D, b: b as Tensor2D, scale, dropout } });
  const gradientsOf = (f: typeof plain): Tensor[] => grads((x: Tensor, a: Tensor, b: Tensor) => sum(mul(f(x, a, b), dy)))([x, a, b]);

  expect(relativeError(fused(x, a, b).dataSync(), plain(x, a, b).dataSync())).toBeLessThan(1e-5);
  const expected = gradientsOf(plain);
  gradientsOf(fused).forEach((gradient, i) => expect(relativeError(gradient.dataSync(), expected[i].dataSync()), 'x a b'.split(' ')[i]).toBeLessThan(1e-5));
});
