import { expect, it } from 'vitest';
import { uniformNoise } from '../../engine/tensor/uniform-noise.js';
import { describeBackends } from '../kit/backends.js';
import { philoxWords } from '../../engine/random/philox.js';

describeBackends('uniformNoise', () => {
  const key = { seed: 2 ** 40 + 5, step: 9, stream: 4095 };

  it('is spread evenly over ±magnitude', async () => {
    const count = 40_000, magnitude = 0.25;
    const values = [...(await uniformNoise([200, 200], magnitude, key).data())];
    const moment = (power: number): number => values.reduce((sum, value) => sum + (value / magnitude) ** power, 0) / count;
    expect(Math.max(...values.map(Math.abs))).toBeLessThanOrEqual(magnitude);
    expect(Math.abs(moment(1))).toBeLessThan(5 * Math.sqrt(1 / 3 / count));
    expect(Math.abs(moment(2) - 1 / 3)).toBeLessThan(5 * Math.sqrt(4 / 45 / count));
    const bins = new Float64Array(10);
    for (const value of values) bins[Math.min(9, Math.floor(((value / magnitude + 1) / 2) * 10))]++;
    const chiSquare = bins.reduce((sum, bin) => sum + (bin - count / 10) ** 2 / (count / 10), 0);
    expect(chiSquare).toBeLessThan(33.7); // 9 degrees of freedom, p = 1e-4; the key is fixed
  });

  it('is that of the stream, whatever the shape', async () => {
    const words = philoxWords(key, 6);
    const expected = Array.from(words, (word) => Math.fround((((word & 0x7fffff) + 0.5) / 2 ** 22 - 1) * 2));
    const [flat, square] = [await uniformNoise([6], 2, key).data(), await uniformNoise([2, 3], 2, key).data()];
    expected.forEach((value, i) => expect(flat[i]).toBeCloseTo(value, 6));
    expect([...square]).toEqual([...flat]);
    expect([...(await uniformNoise([6], 2, { ...key, step: 10 }).data())]).not.toEqual([...flat]);
  });
});
