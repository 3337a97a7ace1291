import { expect, it } from 'vitest';
import { dropoutMask } from '../../engine/tensor/dropout-mask.js';
import { describeBackends } from '../kit/backends.js';
import { randomInt } from '../kit/check-op.js';
import { dropoutFactors } from '../kit/dropout.js';

describeBackends('dropoutMask', () => {
  it.each([[[1], 0.5], [[3, 5], 0.1], [[33, 129], 0.05], [[2, 3, 4], 0], [[512, 576], 0.3], [[4], 0.99999]] as [number[], number][])('of %j at rate %d follows the Philox stream', async (shape, rate) => {
    const key = { seed: randomInt(2 ** 53), step: randomInt(2 ** 32), stream: randomInt(2 ** 32) };
    const mask = await dropoutMask(shape, rate, key).data();
    const factors = dropoutFactors(key, rate, shape.reduce((a, b) => a * b, 1));
    const wrong = mask.findIndex((value, i) => value !== Math.fround(factors[i]));
    expect(wrong, JSON.stringify(key)).toBe(-1);
    expect(mask.length).toBe(factors.length);
  });

  it.each([0.05, 0.9])('has a mean of 1 at a rate of %d, which is no multiple of 1/32768', async (rate) => {
    const mask = await dropoutMask([1 << 20], rate, { seed: 4, step: 5, stream: 6 }).data<'float32'>();
    const mean = mask.reduce((sum, value) => sum + value, 0) / mask.length;
    expect(Math.abs(mean - 1)).toBeLessThan((5 * Math.sqrt(rate / (1 - rate))) / 1024); // five standard deviations
  });

  it('drops about its rate', async () => {
    const mask = await dropoutMask([400, 250], 0.2, { seed: 1, step: 2, stream: 3 }).data();
    const dropped = mask.filter((value) => value === 0).length / mask.length;
    expect(Math.abs(dropped - 0.2)).toBeLessThan(0.0065); // five standard deviations
  });

  it.each([1, -0.1, NaN])('refuses a rate of %d', (rate) =>
    expect(() => dropoutMask([2], rate, { seed: 0, step: 0, stream: 0 })).toThrow(`dropoutMask: rate: expected 0 ≤ rate < 1, got ${rate}`));
});
