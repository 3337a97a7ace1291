import type { Metrics } from '../../contracts/stages.js';
import { percent, significant } from './numbers.js';

/** One figure of the base and of the tuned model. */
export interface ComparedFigure {
  name: string;
  /** One sentence for a reader who does not know the figure. */
  meaning: string;
  base: string;
  tuned: string;
  change: string;
  judgement: 'better' | 'worse' | 'same' | 'neutral';
}

interface Figure {
  name: string;
  meaning: string;
  value(metrics: Metrics): number | null;
  write(value: number): string;
  /** How a change is written. @default as the value */
  writeChange?(value: number): string;
  good: 'lower' | 'higher' | 'neither';
}

/** A difference of shares: percentage points. */
const points = (value: number): string => percent(value).replace('%', ' points');

const figures: readonly Figure[] = [
  { name: 'Loss', meaning: 'Mean negative log-likelihood of the held-out answers, in nats per token; lower is better.', value: ({ evalLoss }) => evalLoss, write: (value) => value.toFixed(3), good: 'lower' },
  { name: 'Perplexity', meaning: 'e to the loss: among how many tokens the model hesitates; lower is better.', value: ({ perplexity }) => perplexity, write: significant, good: 'lower' },
  { name: 'ROUGE-L', meaning: 'Overlap of the answers with the references, F1 from 0 to 1; higher is better.', value: ({ rougeL }) => rougeL, write: (value) => value.toFixed(3), good: 'higher' },
  { name: 'Stop rate', meaning: 'Share of answers that end by themselves, not at the token limit; higher is better.', value: ({ stopRate }) => stopRate, write: (value) => percent(value), writeChange: points, good: 'higher' },
  { name: 'Repetition', meaning: 'Share of four-word sequences that an answer has already used; lower is better.', value: ({ repetition }) => repetition, write: (value) => percent(value), writeChange: points, good: 'lower' },
  { name: 'Answer length', meaning: 'Mean tokens of an answer; neither long nor short is better.', value: ({ meanTokens }) => meanTokens, write: (value) => value.toFixed(1), good: 'neither' },
];

/** The figures of both models side by side. Judged by the figures as they are written: what reads the same is the same. */
export function compare(base: Metrics, tuned: Metrics): ComparedFigure[] {
  return figures.map(({ name, meaning, value, write, writeChange = write, good }) => {
    const [before, after] = [value(base), value(tuned)];
    if (before === null || after === null) return { name, meaning, base: written(before, write), tuned: written(after, write), change: '', judgement: 'neutral' };
    const [baseText, tunedText] = [write(before), write(after)];
    const difference = after - before;
    const change = baseText === tunedText ? 'none' : `${difference < 0 ? '−' : '+'}${writeChange(Math.abs(difference))}`;
    return { name, meaning, base: baseText, tuned: tunedText, change, judgement: baseText === tunedText ? 'same' : judge(difference, good) };
  });
}

const written = (value: number | null, write: (value: number) => string): string => (value === null ? 'no references' : write(value));

function judge(difference: number, good: Figure['good']): ComparedFigure['judgement'] {
  if (good === 'neither') return 'neutral';
  return difference < 0 === (good === 'lower') ? 'better' : 'worse';
}
