import { dispose, grads, memory, mul, ones, sum, tidy, type Tensor } from '@tensorflow/tfjs-core';
import { expect } from 'vitest';
import { takeGradients } from '../../engine/tensor/take-gradients.js';
import { expectClose, random, toTensor } from './check-op.js';

type Op = (...inputs: Tensor[]) => Tensor;

/** Compares an op with one that is known to be right, on the same inputs: values, gradients by `grads` and by `takeGradients`; and that nothing leaks. */
export async function expectSameOp(known: Op, op: Op, inputs: Tensor[], tolerance: number): Promise<void> {
  const expected = tidy(() => known(...inputs)), dy = toTensor(random(expected.shape));
  const loss = (op: Op): Op => (...given) => sum(mul(op(...given), dy));
  const wanted = tidy(() => grads(loss(known))(inputs));
  const before = memory().numTensors;
  const value = tidy(() => op(...inputs));
  expectClose(await value.data(), await expected.data(), tolerance, 'value');
  const found = tidy(() => grads(loss(op))(inputs));
  const taken = takeGradients(() => loss(op)(...inputs), inputs, ones([]));
  for (const [i, gradient] of wanted.entries()) {
    expectClose(await found[i].data(), await gradient.data(), tolerance, `gradient ${i}`);
    expectClose(await taken.gradients[i].data(), await gradient.data(), tolerance, `gradient ${i}, taken`);
  }
  dispose([value, ...found, taken.value, ...taken.gradients]);
  expect(memory().numTensors, 'tensors left behind').toBe(before);
  dispose([expected, dy, ...wanted]);
}
