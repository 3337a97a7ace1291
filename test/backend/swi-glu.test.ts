import { ones, tensor1d } from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { swiGlu } from '../../engine/tensor/swi-glu.js';
import { describeBackends } from '../kit/backends.js';
import { checkOp, random } from '../kit/check-op.js';

describeBackends('swiGlu', ({ tolerance }) => {
  it.each([[[3, 17], 1], [[1, 1, 5], 8]] as [number[], number][])('gates %j values up to %d', async (shape, scale) => {
    await checkOp({
      operands: { gate: random(shape, scale), up: random(shape) },
      op: ({ gate, up }) => swiGlu(gate, up),
      reference: ({ gate, up }) => gate.map((g, i) => (g / (1 + Math.exp(-g))) * up[i]),
      tolerance,
    });
  });

  it('stays finite far out', async () => {
    const y = await swiGlu(tensor1d([-200, 200]), ones([2])).data();
    expect(Math.abs(y[0])).toBe(0);
    expect(y[1]).toBe(200);
  });

  it('names both shapes on a mismatch', () =>
    expect(() => swiGlu(ones([2, 3]), ones([3, 2]))).toThrow('swiGlu: up: expected shape [2,3] of gate, got [3,2]'));
});
