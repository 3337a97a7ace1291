import { describe, expect, it } from 'vitest';
import { answerMetrics, repetition, rougeL } from '../../engine/data/text-metrics.js';
import golden from '../golden/data-metrics.json' with { type: 'json' };

describe('rougeL', () => {
  it('equals rouge_score on every pair of the golden file', () => {
    expect(golden.rouge.length).toBeGreaterThan(50);
    for (const { text, reference, f1 } of golden.rouge) expect(rougeL(text, reference), JSON.stringify([text, reference])).toBeCloseTo(f1, 12);
  });
});

describe('repetition', () => {
  it.each([
    ['', 0],
    ['one two three four', 0],
    ['a a a a a', 1 / 2],
    ['a b c d a b c d', 1 / 5],
    ['a b c d e f g h', 0],
  ])('of %j is %d', (text, share) => expect(repetition(text)).toBeCloseTo(share, 12));
});

describe('answerMetrics', () => {
  it('averages over answers, ROUGE-L only over those with a reference', () => {
    const metrics = answerMetrics([
      { text: 'a red mouse', reference: 'a red mouse', tokens: 4, stopped: true },
      { text: 'nothing alike', reference: 'a red mouse', tokens: 8, stopped: false },
      { text: 'x x x x x', reference: null, tokens: 6, stopped: false },
    ]);
    expect(metrics).toEqual({ rougeL: 0.5, meanTokens: 6, repetition: 1 / 6, stopRate: 1 / 3 });
  });

  it('has no ROUGE-L without references', () => {
    expect(answerMetrics([{ text: 'x', reference: null, tokens: 1, stopped: true }]).rougeL).toBeNull();
  });
});
