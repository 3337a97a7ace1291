import { findBackend } from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import type { CudaBackend } from '../../engine/cuda/backend.js';
import { poisonAllocations } from './cases/poison.js';
import { differences, refusal, uploadCases } from './cases/upload.js';
import { describeGpu } from './device.js';

describeGpu('matrices that are quantised on cuda', () => {
  it.each(uploadCases)('are bit for bit those of engine/quant: $name', async (one) => {
    poisonAllocations();
    const seed = Date.now() % 2 ** 31;
    expect(await differences(findBackend('cuda') as CudaBackend, one, seed), `seed ${seed}`).toBe(0);
  });

  it.each([NaN, Infinity, -Infinity])('are refused with the first value that is not finite: %s', async (value) => {
    for (const dtype of ['f32', 'f16', 'bf16'] as const) expect(await refusal(findBackend('cuda') as CudaBackend, dtype, value)).toBe(`${value} at 4321`);
  });
});
