import { describe, expect, it } from 'vitest';
import { philoxBlock, philoxWords } from '../../engine/random/philox.js';
import { permutation } from '../../engine/random/shuffle.js';

describe('philoxBlock', () => {
  // Known answers of the Random123 library (kat_vectors, philox4x32 with 10 and 7 rounds).
  it.each([
    [[0, 0, 0, 0], [0, 0], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]],
    [[0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff], [0xffffffff, 0xffffffff], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]],
    [[0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0], [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]],
  ] as const)('gives the published words at counter %j', (counter, key, expected) => {
    const words = new Uint32Array(4);
    philoxBlock(counter, key, words);
    expect([...words]).toEqual(expected);
  });

  it.each([
    [[0, 0, 0, 0], [0, 0], [0x5f6fb709, 0x0d893f64, 0x4f121f81, 0x4f730a48]],
    [[0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff], [0xffffffff, 0xffffffff], [0x5207ddc2, 0x45165e59, 0x4d8ee751, 0x8c52f662]],
    [[0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0], [0x4dfccaba, 0x190a87f0, 0xc47362ba, 0xb6b5242a]],
  ] as const)('gives the published words after seven rounds at counter %j', (counter, key, expected) => {
    const words = new Uint32Array(4);
    philoxBlock(counter, key, words, 0, 7);
    expect([...words]).toEqual(expected);
  });
});

describe('philoxWords', () => {
  it('starts anywhere with the words a longer run has there', () => {
    const key = { seed: 7, step: 3, stream: 11 };
    expect([...philoxWords(key, 5, 8)]).toEqual([...philoxWords(key, 13).subarray(8)]);
  });

  it.each([
    { seed: 8, step: 3, stream: 11 }, { seed: 7, step: 4, stream: 11 }, { seed: 7, step: 3, stream: 12 }, { seed: 7 + 2 ** 32, step: 3, stream: 11 },
  ])('gives other words for another key: %j', (key) => {
    expect([...philoxWords(key, 8)]).not.toEqual([...philoxWords({ seed: 7, step: 3, stream: 11 }, 8)]);
  });

  it('refuses a start inside a block', () => {
    expect(() => philoxWords({ seed: 0, step: 0, stream: 0 }, 4, 2)).toThrow('start: expected a multiple of 4, got 2');
  });
});

describe('permutation', () => {
  it('holds every number once', () => {
    const order = permutation(1000, { seed: 42, step: 0, stream: 0 });
    expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: 1000 }, (_, i) => i));
  });

  it('gives each of the six orders of three about equally often', () => {
    const seen = new Map<string, number>();
    for (let seed = 0; seed < 6000; seed++) {
      const order = permutation(3, { seed, step: 0, stream: 0 }).join();
      seen.set(order, (seen.get(order) ?? 0) + 1);
    }
    expect(seen.size).toBe(6);
    for (const count of seen.values()) expect(Math.abs(count - 1000)).toBeLessThan(150); // about 5 standard deviations
  });
});
