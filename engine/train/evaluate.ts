import { tidy } from '@tensorflow/tfjs-core';
import { packRows, type TokenRows } from '../data/batches.js';
import { EngineError } from '../errors.js';
import { forward, summedLoss, type Llama } from '../model/llama.js';

export interface Evaluation {
  /** Mean negative log-likelihood over the counted tokens, in nats. */
  loss: number;
  /** Counted tokens. */
  tokens: number;
}

export interface EvaluateOptions {
  /** Rows a batch. No figure depends on it. @default 16 */
  batchSize?: number;
  /** Called after each batch with the rows done; a promise is awaited. */
  onBatch?: (rows: number, total: number) => void | Promise<void>;
}

/** Token-weighted loss over all rows, without dropout. Rows go by length, so that batches hold little padding. */
export async function evaluateLoss({ model, adapter }: Llama, rows: TokenRows, { batchSize = 16, onBatch }: EvaluateOptions = {}): Promise<Evaluation> {
  const order = Array.from({ length: rows.count }, (_, row) => row).sort((a, b) => rows.length(b) - rows.length(a) || a - b);
  let sum = 0;
  let tokens = 0;
  for (let from = 0; from < order.length; from += batchSize) {
    const batch = packRows(rows, order.slice(from, from + batchSize));
    if (batch.countedTokens > 0) {
      const loss = tidy(() => summedLoss({ model, adapter }, forward({ model, adapter }, batch), batch));
      sum += (await loss.data())[0];
      loss.dispose();
      tokens += batch.countedTokens;
    }
    await onBatch?.(Math.min(from + batchSize, order.length), order.length);
  }
  if (tokens === 0) throw new EngineError('invalidInput', 'no_counted_tokens', 'test rows: expected at least one token that the loss counts, got none');
  if (!Number.isFinite(sum)) throw new EngineError('nanLoss', 'nan_loss', `test rows: loss: expected a finite number, got ${sum}`);
  return { loss: sum / tokens, tokens };
}
