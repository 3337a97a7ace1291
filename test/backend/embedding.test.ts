import { memory, tensor2d, tidy } from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { embedding } from '../../engine/tensor/embedding.js';
import { dequantize, disposeWeight, freezeWeight, type BaseDtype } from '../../engine/tensor/frozen-weight.js';
import { describeBackends } from '../kit/backends.js';
import { random } from '../kit/check-op.js';

describeBackends('embedding', () => {
  it.each<BaseDtype>([{ dtype: 'f32' }, { dtype: 'bf16' }, { dtype: 'int8' }, { dtype: 'nf4', doubleQuant: true }])('takes rows of a table in $dtype', async (base) => {
    const [rows, size] = [11, 6];
    const before = memory().numTensors;
    const table = freezeWeight(random([rows, size]).values, [rows, size], base);
    const ids = [[0, 10, 3], [3, 3, 7]];
    const [found, all] = tidy(() => [embedding(table, tensor2d(ids, [2, 3], 'int32')), dequantize(table)]);
    expect(found.shape).toEqual([2, 3, size]);
    const values = await all.data();
    expect([...(await found.data())]).toEqual(ids.flat().flatMap((id) => [...values.slice(id * size, (id + 1) * size)]));
    for (const tensor of [found, all]) tensor.dispose();
    disposeWeight(table);
    expect(memory().numTensors - before).toBe(0);
  });

  it('refuses ids that are no integers', () => {
    const table = freezeWeight(random([2, 2]).values, [2, 2], { dtype: 'f32' });
    expect(() => embedding(table, tensor2d([[0, 1]], [1, 2], 'float32'))).toThrow('embedding: ids: expected int32 [B,T], got float32 [1,2]');
  });
});
