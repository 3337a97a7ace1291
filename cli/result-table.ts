import type { Answer, Metrics } from '../contracts/stages.js';
import { formatPercent, wrap } from './format.js';
import { table } from './table.js';

/** Baseline against tuned, one figure a line. */
export function metricsTable(baseline: Metrics, tuned: Metrics): string[] {
  const rouge = ({ rougeL }: Metrics): string => (rougeL === null ? '–' : rougeL.toFixed(3));
  const figures: [string, (metrics: Metrics) => string][] = [
    ['eval loss', ({ evalLoss }) => evalLoss.toFixed(3)],
    ['perplexity', ({ perplexity }) => perplexity.toFixed(2)],
    ['ROUGE-L', rouge],
    ['answers that stop', ({ stopRate }) => formatPercent(stopRate)],
    ['repetition', ({ repetition }) => formatPercent(repetition)],
  ];
  return table([['', 'baseline', 'tuned'], ...figures.map(([name, figure]) => [name, figure(baseline), figure(tuned)])]);
}

/** Answers to the same question side by side, at most `count` of them. Questions with a reference come first. */
export function answersSideBySide(baseline: Answer[], tuned: Answer[], { count, columns }: { count: number; columns: number }): string[] {
  const width = Math.max(20, Math.floor((columns - 5) / 2));
  const pairs = tuned
    .filter(({ format }) => format === 'training')
    .flatMap((after) => {
      const before = baseline.find(({ format, prompt }) => format === after.format && prompt === after.prompt);
      return before ? [{ before, after }] : [];
    })
    .sort((a, b) => Number(a.after.reference === null) - Number(b.after.reference === null))
    .slice(0, count);
  return pairs.flatMap(({ before, after }) => [
    '',
    ...wrap(`Asked: ${question(after.prompt)}`, columns),
    ...(after.reference === null ? [] : wrap(`In the data: ${after.reference.trim()}`, columns)),
    ...sideBySide(['baseline', ...shorten(before.text, width)], ['tuned', ...shorten(after.text, width)], width),
  ]);
}

const answerLines = 6;

function shorten(text: string, width: number): string[] {
  const lines = wrap(text.trim() || '(nothing)', width);
  return lines.length <= answerLines ? lines : [...lines.slice(0, answerLines - 1), '…'];
}

/** What chat templates set around turns: `<|im_end|>`, `</s>`, `[/INST]`. */
const marker = /<\|[^|\s]*\|>|<\/?s>|\[\/?[A-Z_]{2,}\]/;

/** The part of an Alpaca prompt that differs between rows, else the last lines of the prompt or of its last turn that says something. */
function question(prompt: string): string {
  const instruction = /### Instruction:\s*([\s\S]*?)\s*### /.exec(prompt)?.[1];
  const turns = prompt.split(marker).map((turn) => turn.trim().replace(/^user\n/, '')).filter((turn) => turn !== '' && !/^assistant\b/.test(turn));
  return (instruction ?? (turns.at(-1) ?? prompt.trim()).split('\n').slice(-2).join(' ')).replace(/\s+/g, ' ');
}

function sideBySide(left: string[], right: string[], width: number): string[] {
  return Array.from({ length: Math.max(left.length, right.length) }, (_, row) => `${(left[row] ?? '').padEnd(width)}  │  ${right[row] ?? ''}`.trimEnd());
}
