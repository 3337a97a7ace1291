import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { architectures } from '../../engine/formats/architectures/index.js';
import { llama3Factors, llama3ScalingOf, rotaryFrequencies, type RopeScaling } from '../../engine/formats/rope-scaling.js';

it('every architecture has its row in the README, and no other is there', () => {
  const section = readFileSync('README.md', 'utf8').split('### Architectures and tokenizers')[1].split('\n\n')[0];
  const rows = [...section.matchAll(/^\| `(\w+)` \|[^|]*\| `(\w+)` \|/gm)].map(([, modelType, gguf]) => [modelType, gguf]);
  expect(rows).toEqual(architectures.map(({ modelType, gguf }) => [modelType, gguf.name]));
});

describe('the llama3 scaling of a GGUF', () => {
  const published: RopeScaling = { type: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalContextLength: 8192 };
  it.each<[string, number, number, RopeScaling]>([
    ['LLaMA 3.1', 500_000, 128, published],
    ['LLaMA 3.2', 500_000, 64, { ...published, factor: 32 }],
    ['another original context', 10_000, 64, { ...published, originalContextLength: 4096, highFreqFactor: 8 }],
  ])('is told from its factors: %s', (_name, theta, headDim, scaling) => {
    const frequencies = rotaryFrequencies(theta, headDim);
    const factors = Float32Array.from(llama3Factors(frequencies, scaling as Extract<RopeScaling, { type: 'llama3' }>));
    expect(llama3ScalingOf(factors, frequencies)).toEqual(scaling);
  });
  it('is not made up for factors that it cannot give', () => {
    const frequencies = rotaryFrequencies(500_000, 64);
    expect(llama3ScalingOf(frequencies.map((_, i) => 1 + i), frequencies)).toBeUndefined();
    expect(llama3ScalingOf([1, 8], frequencies)).toBeUndefined();
  });
});
