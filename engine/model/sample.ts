import { philoxWords } from '../random/philox.js';

/** How the next token is drawn; left out, the likeliest is taken. */
export interface Sampling {
  /** Logits are divided by this. */
  temperature: number;
  /** Draw from the fewest likeliest tokens whose probabilities reach this. @default 1 */
  topP?: number;
  /** Draw from this many of the likeliest tokens. @default all */
  topK?: number;
  seed: number;
}

/**
 * Draws a token. What is drawn depends on the logits, the seed, the row's number and the token's place in the answer alone.
 * @param logits [vocab]
 */
export function sampleToken(logits: Float32Array, { temperature, topP = 1, topK = logits.length, seed }: Sampling, row: number, place: number): number {
  const order = likeliest(logits, topP < 1 || topK < logits.length);
  const best = logits[order[0]];
  const kept = Math.min(topK, order.length);
  const weights = Float64Array.from({ length: kept }, (_, i) => Math.exp((logits[order[i]] - best) / temperature));
  const total = weights.reduce((sum, weight) => sum + weight, 0);

  let reached = 0;
  let count = 0;
  while (count < kept && (count === 0 || reached < topP * total)) reached += weights[count++];

  const [word] = philoxWords({ seed, step: place, stream: row }, 1);
  let rest = ((word + 0.5) / 2 ** 32) * reached;
  for (let i = 0; i < count; i++) {
    rest -= weights[i];
    if (rest < 0) return order[i];
  }
  return order[count - 1];
}

/** Token ids, the likeliest first; only the first of them is in place unless `sorted`. */
function likeliest(logits: Float32Array, sorted: boolean): Uint32Array {
  const order = Uint32Array.from(logits, (_, id) => id);
  if (sorted) return order.sort((a, b) => logits[b] - logits[a] || a - b);
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
  [order[0], order[best]] = [order[best], order[0]];
  return order;
}
