import type { Metrics } from '../../contracts/stages.js';
import { percent, significant } from './numbers.js';

export interface Verdict {
  outcome: 'helped' | 'mixed' | 'no difference' | 'hurt';
  /** One sentence. */
  sentence: string;
}

/** Smaller relative changes of the loss are no difference. */
const SMALLEST_LOSS_CHANGE = 0.01;
/** An answer figure that worsens by more than this speaks against a tuning that lowered the loss. */
const TOLERATED = { rougeL: 0.02, stopRate: 0.1, repetition: 0.1 };

/** Did the tuning help? The loss on held-out rows decides; answers that got worse make it mixed. */
export function verdict(base: Metrics, tuned: Metrics): Verdict {
  const change = (tuned.evalLoss - base.evalLoss) / base.evalLoss;
  const loss = `from ${base.evalLoss.toFixed(3)} to ${tuned.evalLoss.toFixed(3)} nats per token (perplexity ${significant(base.perplexity)} to ${significant(tuned.perplexity)})`;
  if (Math.abs(change) < SMALLEST_LOSS_CHANGE) {
    return { outcome: 'no difference', sentence: `The tuning made no difference: the loss on held-out rows went ${loss}.` };
  }
  if (change > 0) return { outcome: 'hurt', sentence: `The tuning did not help: the loss on held-out rows rose ${loss}.` };
  const worse = answersThatGotWorse(base, tuned);
  const fell = `the loss on held-out rows fell ${loss}`;
  if (worse.length > 0) return { outcome: 'mixed', sentence: `The tuning helped in part: ${fell}, but ${worse.join(' and ')}.` };
  return { outcome: 'helped', sentence: `The tuning helped: ${[fell, ...answers(base, tuned)].join(', ')}.` };
}

function answersThatGotWorse(base: Metrics, tuned: Metrics): string[] {
  const worse: string[] = [];
  if (base.rougeL !== null && tuned.rougeL !== null && tuned.rougeL < base.rougeL - TOLERATED.rougeL) {
    worse.push(`answers overlap less with the references (ROUGE-L ${base.rougeL.toFixed(3)} to ${tuned.rougeL.toFixed(3)})`);
  }
  if (tuned.stopRate < base.stopRate - TOLERATED.stopRate) worse.push(`fewer answers stop by themselves (${percent(base.stopRate)} to ${percent(tuned.stopRate)})`);
  if (tuned.repetition > base.repetition + TOLERATED.repetition) worse.push(`answers repeat themselves more (${percent(base.repetition)} to ${percent(tuned.repetition)})`);
  return worse;
}

function answers(base: Metrics, tuned: Metrics): string[] {
  const parts: string[] = [];
  if (base.rougeL !== null && tuned.rougeL !== null) parts.push(`ROUGE-L went from ${base.rougeL.toFixed(3)} to ${tuned.rougeL.toFixed(3)}`);
  parts.push(`and ${percent(tuned.stopRate)} of the answers stop by themselves (base: ${percent(base.stopRate)})`);
  return parts;
}
