import type { Scalar } from '@tensorflow/tfjs-core';
import { lineWidth, tokensOf, type TokenRows } from '../data/batches.js';
import { EngineError } from '../errors.js';
import type { Llama } from '../model/llama.js';
import { replayer } from '../tensor/replay.js';
import { layOut, LossPasses, type PassSize } from './passes.js';

export interface Evaluation {
  /** Mean negative log-likelihood over the counted tokens, in nats. */
  loss: number;
  /** Counted tokens. */
  tokens: number;
}

export interface EvaluateOptions {
  /** Rows of the greatest length in a batch; short ones may be more. No figure depends on it. @default 16 */
  batchSize?: number;
  /** The model's, for rows as long as these. @default made for the call */
  passes?: LossPasses;
  /** Called after each batch with the rows done; a promise is awaited. */
  onBatch?: (rows: number, total: number) => void | Promise<void>;
}

const EVALUATED_ROWS = 16;

/** Token-weighted loss over all rows, without dropout. Rows go by length, so that batches hold little padding. */
export async function evaluateLoss(llama: Llama, rows: TokenRows, { batchSize = EVALUATED_ROWS, passes: shared, onBatch }: EvaluateOptions = {}): Promise<Evaluation> {
  const passes = shared ?? new LossPasses(llama, longestOf(rows));
  const losses: Scalar[] = [];
  let tokens = 0, done = 0;
  try {
    for (const indices of evaluationBatches(rows, batchSize)) {
      const batch = layOut(rows, indices);
      if (batch.countedTokens > 0) losses.push(passes.run(batch));
      tokens += batch.countedTokens;
      await onBatch?.((done += indices.length), rows.count);
    }
    if (tokens === 0) throw new EngineError('invalidInput', 'no_counted_tokens', 'test rows: expected at least one token that the loss counts, got none');
    let sum = 0;
    for (const loss of losses) sum += (await loss.data())[0];
    if (!Number.isFinite(sum)) throw new EngineError('nanLoss', 'nan_loss', `test rows: loss: expected a finite number, got ${sum}`);
    return { loss: sum / tokens, tokens };
  } finally {
    for (const loss of losses) loss.dispose();
    if (!shared) {
      passes.dispose();
      replayer()?.clear();
    }
  }
}

/** Rows by length, longest first, in batches: of so many rows, or, on a backend that records computations, of so many tokens. */
export function evaluationBatches(rows: TokenRows, batchSize: number): number[][] {
  const order = Array.from({ length: rows.count }, (_, row) => row).sort((a, b) => rows.length(b) - rows.length(a) || a - b);
  const capacity = replayer() && lineWidth(batchSize * rows.length(order[0] ?? 0));
  const batches: number[][] = [];
  let free = 0;
  for (const row of order) {
    const size = capacity === undefined ? 1 : rows.length(row);
    if (batches.length === 0 || free < size) {
      batches.push([]);
      free = capacity ?? batchSize;
    }
    batches.at(-1)!.push(row);
    free -= size;
  }
  return batches;
}

/** The largest batch of an evaluation; undefined without rows. */
export function largestEvaluation(rows: TokenRows): PassSize | undefined {
  const sizes = evaluationBatches(rows, EVALUATED_ROWS).map((indices) => tokensOf(rows, indices));
  return sizes.length === 0 ? undefined : { tokens: Math.max(...sizes), counted: Math.max(...sizes) };
}

/** Tokens of the longest row. */
export function longestOf(rows: TokenRows): number {
  let longest = 0;
  for (let row = 0; row < rows.count; row++) longest = Math.max(longest, rows.length(row));
  return longest;
}
