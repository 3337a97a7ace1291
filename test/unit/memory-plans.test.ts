import { describe, expect, it } from 'vitest';
import type { LlamaConfig } from '../../engine/formats/llama-config.js';
import { planActivations } from '../../engine/model/activations.js';
import { planResidency } from '../../engine/model/residency.js';

const GiB = 2 ** 30;
const smollm2: LlamaConfig = {
  architecture: 'llama', vocabSize: 49_152, hiddenSize: 576, intermediateSize: 1536, layers: 30, heads: 9, kvHeads: 3, headDim: 64,
  contextLength: 8192, ropeTheta: 100_000, rmsNormEps: 1e-5, tiedEmbeddings: true, eosTokenIds: [2],
};

describe('planResidency', () => {
  it('keeps dequantised copies where they take at most two fifths of the free memory', () => {
    expect(planResidency(smollm2, { dtype: 'nf4', doubleQuant: true }, 1.1 * GiB)).toEqual({
      resident: true, description: 'base nf4: 51 MiB of block weights; dequantised copies need 405 MiB, 1.1 GiB are free: kept',
    });
    expect(planResidency(smollm2, { dtype: 'int8' }, 0.9 * GiB)).toEqual({
      resident: false, description: 'base int8: 101 MiB of block weights; dequantised copies need 405 MiB, 922 MiB are free: made anew for each product',
    });
  });

  it('has nothing to copy where the base is not quantised', () => {
    expect(planResidency(smollm2, { dtype: 'bf16' }, 100 * GiB)).toEqual({ resident: false, description: 'base bf16: 405 MiB of block weights in float32' });
  });
});

describe('planActivations', () => {
  const batch = { rows: 16, longest: 96 };

  it('keeps them where they fit, and recomputes the blocks where they do not', () => {
    expect(planActivations(smollm2, batch, 16 * GiB)).toEqual({
      recompute: false, description: 'activations of a micro-batch: up to 5.6 GiB, 16.0 GiB are free: kept',
    });
    expect(planActivations(smollm2, batch, 8 * GiB)).toEqual({
      recompute: true, description: 'activations of a micro-batch: up to 5.6 GiB, 8.0 GiB are free: recomputed in the backward pass',
    });
  });
});
