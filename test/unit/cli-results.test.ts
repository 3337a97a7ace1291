import { describe, expect, it } from 'vitest';
import type { Answer, Metrics } from '../../contracts/stages.js';
import { formatSeconds, wrap } from '../../cli/format.js';
import { answersSideBySide, metricsTable } from '../../cli/result-table.js';

const metrics: Metrics = { evalLoss: 3.5, perplexity: 33.115, evalTokens: 100, rougeL: 0.1, meanTokens: 20, repetition: 0.25, stopRate: 0.5 };

it('puts baseline and tuned side by side, a figure a line', () => {
  expect(metricsTable(metrics, { ...metrics, evalLoss: 2.25, stopRate: 1, rougeL: null })).toEqual([
    '                    baseline   tuned',
    '────────────────────────────────────',
    'eval loss              3.500   2.250',
    'perplexity             33.12   33.12',
    'ROUGE-L                0.100       –',
    'answers that stop        50%    100%',
    'repetition               25%     25%',
  ]);
});

describe('answers side by side', () => {
  const answer = (prompt: string, text: string, reference: string | null = null, format: Answer['format'] = 'training'): Answer => ({
    format, prompt: `### Instruction:\n${prompt}\n\n### Response:\n`, reference, text, tokens: 3, stopped: true,
  });

  it('pair the answers of the trained format by their question, those with a reference first', () => {
    const lines = answersSideBySide(
      [answer('a', 'before a'), answer('b', 'before b', 'truth'), answer('a', 'own', null, 'own')],
      [answer('a', 'after a'), answer('b', 'after b', 'truth'), answer('a', 'own', null, 'own')],
      { count: 2, columns: 45 },
    );
    expect(lines).toEqual([
      '', 'Asked: b', 'In the data: truth', 'baseline              │  tuned', 'before b              │  after b',
      '', 'Asked: a', 'baseline              │  tuned', 'before a              │  after a',
    ]);
  });

  it('say when an answer is empty, and cut a long one', () => {
    const lines = answersSideBySide([answer('a', '')], [answer('a', 'word '.repeat(60))], { count: 1, columns: 45 });
    expect(lines[3].startsWith('(nothing)')).toBe(true);
    expect(lines.at(-1)!.endsWith('…')).toBe(true);
  });
});

it.each([
  '<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nDescribe a lamp<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n',
  '<|start_header_id|>user<|end_header_id|>\n\nDescribe a lamp<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n', '<s>[INST] Describe a lamp[/INST]', 'Describe\na lamp\n',
])('tells what was asked, without what a template sets around it: %j', (prompt) => {
  const answer = (text: string): Answer => ({ format: 'training', prompt, reference: null, text, tokens: 1, stopped: true });
  expect(answersSideBySide([answer('a')], [answer('b')], { count: 1, columns: 80 })[1]).toBe('Asked: Describe a lamp');
});

it('leaves a terminal no control characters to obey', () => {
  expect(wrap('a\u001b[2J\0 b\tc', 20)).toEqual(['a\ufffd[2J\ufffd b c']);
});

it('wraps words to a width and cuts those that are longer', () => {
  expect(wrap('one two three\nverylongword', 7)).toEqual(['one two', 'three', 'verylon', 'gword']);
});

it('writes times as people say them', () => {
  expect([0.04, 8.25, 42.4, 65, 7380].map(formatSeconds)).toEqual(['0 s', '8.3 s', '42 s', '1 m 05 s', '2 h 03 m']);
});
