import { findBackend, memory } from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import type { CudaBackend } from '../../engine/cuda/backend.js';
import { generationCases, goesOn, isRepeatable, worstGap } from './cases/generation.js';
import { poisonAllocations } from './cases/poison.js';
import { drawnOtherwise, samplingCases } from './cases/sampling.js';
import { describeGpu } from './device.js';

describeGpu('generation on cuda', () => {
  it.each(generationCases)('writes a likeliest token at each step: $name', async (one) => {
    poisonAllocations();
    const seed = Date.now() % 2 ** 31;
    expect(await worstGap(one, seed), `seed ${seed}`).toBeLessThan(0.1);
  });

  it.each(samplingCases)('draws as the host does: %o', (sampling) => {
    expect(drawnOtherwise(findBackend('cuda') as CudaBackend, sampling, 11)).toBeLessThanOrEqual(0.01);
  });

  it.each(generationCases.slice(0, 2))('answers a batch as by itself after others of its shape: $name', async (one) => {
    expect(await goesOn(one, 7)).toBe(true);
  });

  it('repeats itself, greedy or drawn, and leaves nothing behind', async () => {
    const [one] = generationCases;
    expect(await isRepeatable(one, 5)).toBe(true);
    const before = { tensors: memory().numTensors, blocks: (findBackend('cuda') as CudaBackend).device.memory.memory().blocks };
    await isRepeatable(one, 6);
    expect({ tensors: memory().numTensors, blocks: (findBackend('cuda') as CudaBackend).device.memory.memory().blocks }).toEqual(before);
  });
});
