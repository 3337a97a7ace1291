import { expect, it } from 'vitest';
import { philoxWords } from '../../engine/random/philox.js';
import { dropoutMask } from '../../engine/tensor/dropout-mask.js';
import { describeBackends } from '../kit/backends.js';
import { randomInt } from '../kit/check-op.js';

describeBackends('dropoutMask', () => {
  it.each([[[1], 0.5], [[3, 5], 0.1], [[33, 129], 0.05], [[2, 3, 4], 0], [[512, 576], 0.3]] as [number[], number][])('of %j at rate %d follows the Philox stream', async (shape, rate) => {
    const key = { seed: randomInt(2 ** 53), step: randomInt(2 ** 32), stream: randomInt(2 ** 32) };
    const mask = await dropoutMask(shape, rate, key).data();
    const words = philoxWords(key, shape.reduce((a, b) => a * b, 1));
    const kept = Math.fround(1 / (1 - rate));
    const wrong = mask.findIndex((value, i) => value !== ((words[i] & 0x7fffff) / 2 ** 23 >= Math.fround(rate) ? kept : 0));
    expect(wrong, JSON.stringify(key)).toBe(-1);
    expect(mask.length).toBe(words.length);
  });

  it('drops about its rate', async () => {
    const mask = await dropoutMask([400, 250], 0.2, { seed: 1, step: 2, stream: 3 }).data();
    const dropped = mask.filter((value) => value === 0).length / mask.length;
    expect(Math.abs(dropped - 0.2)).toBeLessThan(0.0065); // five standard deviations
  });

  it.each([1, -0.1, NaN])('refuses a rate of %d', (rate) =>
    expect(() => dropoutMask([2], rate, { seed: 0, step: 0, stream: 0 })).toThrow(`dropoutMask: rate: expected 0 ≤ rate < 1, got ${rate}`));
});
