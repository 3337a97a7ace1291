import { expect, it } from 'vitest';
import { adaptedCases } from './cases/adapted.js';
import { blockCases } from './cases/block.js';
import { worstError, type GpuCase } from './cases/compare.js';
import { genericCases } from './cases/generic.js';
import { joinedCases } from './cases/joined.js';
import { linearCases } from './cases/linear.js';
import { poisonAllocations } from './cases/poison.js';
import { describeGpu } from './device.js';

const groups: [string, GpuCase[]][] = [
  ["tfjs's ops on cuda", genericCases],
  ['the ops of a block on cuda', blockCases],
  ['linear layers and the loss on cuda', linearCases],
  ['layers of one input on cuda', joinedCases],
  ['what an adapter trains beside low-rank branches on cuda', adaptedCases],
];

for (const [name, cases] of groups) {
  describeGpu(`${name} give what the composed kernels give on cpu`, () => {
    it.each(cases)('$name', async (one) => {
      poisonAllocations();
      const seed = Date.now() % 2 ** 31;
      expect(await worstError(one, seed), `seed ${seed}`).toBeLessThanOrEqual(one.tolerance ?? 1e-2);
    });
  });
}
