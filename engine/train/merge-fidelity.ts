import { gather, slice, tensor1d, tidy, type Tensor2D } from '@tensorflow/tfjs-core';
import { packRows, type PackedBatch, type TokenRows } from '../data/batches.js';
import { EngineError } from '../errors.js';
import type { LoraAdapter } from '../model/adapter.js';
import { blockForward } from '../model/block.js';
import { batchContext, embed, logitsOf, type Llama } from '../model/llama.js';
import { disposeBlock, disposeModel, loadBlock, loadFrame, type WeightReader } from '../model/load.js';
import { withTrainedParts } from '../model/trained-parts.js';
import type { BaseDtype } from '../tensor/frozen-weight.js';

/** Test rows that models are compared on. */
export interface Sample {
  batches: PackedBatch[];
  /** Tokens in the rows, and those of them that the loss counts. */
  tokens: number;
  countedTokens: number;
}

/** Rows that are read together. */
const rowsInBatch = 16;
/** Logits of each model that exist at one time, in elements: 32 MiB. */
const logitsAtOnce = 2 ** 23;

/** The first rows, whole, until they hold `tokens` tokens. Throws `no_counted_tokens` when the loss counts none of theirs. */
export function sampleRows(rows: TokenRows, tokens: number): Sample {
  const chosen: number[] = [];
  for (let row = 0, read = 0; row < rows.count && read < tokens; read += rows.length(row++)) chosen.push(row);
  const batches: PackedBatch[] = [];
  for (let from = 0; from < chosen.length; from += rowsInBatch) {
    const batch = packRows(rows, chosen.slice(from, from + rowsInBatch));
    if (batch.countedTokens > 0) batches.push(batch);
  }
  const sum = (of: (batch: PackedBatch) => number) => batches.reduce((total, batch) => total + of(batch), 0);
  if (batches.length === 0) throw new EngineError('invalidInput', 'no_counted_tokens', 'test rows: expected at least one token that the loss counts, got none');
  return { batches, tokens: sum((batch) => batch.tokens), countedTokens: sum((batch) => batch.countedTokens) };
}

/**
 * A model that has read a sample: everything that its next-token distributions at the counted tokens can be computed from again,
 * which is far less than the distributions. Disposed by the reader's owner.
 */
export interface ReadSample {
  llama: Llama;
  /** The residual stream at the counted tokens, [counted, hidden], batch by batch. */
  hidden: Tensor2D[];
  dispose(): void;
}

/**
 * Lets a model read a sample. Its blocks are in memory one at a time, so that any model that can be loaded for training can be
 * read in whatever form: beside its embedding and head there are the largest block and the sample's residual stream.
 * @param onBlock called after each block
 */
export async function readSample(
  source: WeightReader, base: BaseDtype, adapter: LoraAdapter | undefined, { batches }: Sample, onBlock: (done: number, total: number) => Promise<void>,
): Promise<ReadSample> {
  const model = await loadFrame(source, base);
  /** With what the adapter trains in full; the blocks are those of the moment. */
  const adapted = (): Llama => ({ model: withTrainedParts(model, adapter), adapter });
  let streams = batches.map((batch) => embed(adapted().model, batch));
  const { layers } = source.config;
  for (let layer = 0; layer < layers; layer++) {
    model.blocks[layer] = await loadBlock(source, layer, base);
    const llama = adapted();
    streams = streams.map((x, i) => {
      const y = tidy(() => blockForward(llama.model, layer, x, batchContext(llama, batches[i])));
      x.dispose();
      return y;
    });
    disposeBlock(model.blocks[layer]);
    delete model.blocks[layer];
    await onBlock(layer + 1, layers);
  }
  const hidden = streams.map((stream, i) => {
    const counted = tidy(() => gather(stream, tensor1d(countedPlaces(batches[i]), 'int32')));
    stream.dispose();
    return counted;
  });
  return {
    llama: adapted(),
    hidden,
    dispose: () => {
      hidden.forEach((tensor) => tensor.dispose());
      disposeModel({ ...model, blocks: [] });
    },
  };
}

const countedPlaces = ({ labels }: PackedBatch): number[] => Array.from(labels.keys()).filter((place) => labels[place] >= 0);

/** One model's predictions of a sample, against another's. */
export interface Comparison {
  /** nats per counted token. */
  evalLoss: number;
  /** Mean Kullback-Leibler divergence from the reference's distributions, in nats. */
  kl: number;
  /** Share of counted tokens at which both find the same token likeliest. */
  agreement: number;
  /** Loss of each counted token. */
  losses: Float64Array;
  /** The reference's own loss, in nats per counted token. */
  referenceLoss: number;
}

/**
 * Compares what two models that have read the same sample predict: exactly, over the whole vocabulary, in double precision; the
 * logits of a few tokens at a time are on the host, those of all of them nowhere.
 */
export async function compareReadings(reference: ReadSample, other: ReadSample, { batches, countedTokens }: Sample): Promise<Comparison> {
  const losses = new Float64Array(countedTokens);
  let [token, divergence, agreeing, referenceSum] = [0, 0, 0, 0];
  for (const [i, batch] of batches.entries()) {
    const labels = countedPlaces(batch).map((place) => batch.labels[place]);
    const { vocabSize } = other.llama.model.config;
    const chunk = Math.max(1, Math.floor(logitsAtOnce / vocabSize));
    for (let from = 0; from < labels.length; from += chunk) {
      const size = Math.min(chunk, labels.length - from);
      const [expected, actual] = [await logitsAt(reference, i, from, size), await logitsAt(other, i, from, size)];
      for (let row = 0; row < size; row++) {
        const p = expected.subarray(row * vocabSize, (row + 1) * vocabSize);
        const q = actual.subarray(row * vocabSize, (row + 1) * vocabSize);
        const { kl, sameBest, logSumP, logSumQ } = compareLogits(p, q);
        divergence += kl;
        agreeing += Number(sameBest);
        referenceSum += logSumP - p[labels[from + row]];
        losses[token++] = logSumQ - q[labels[from + row]];
      }
    }
  }
  const evalLoss = losses.reduce((sum, loss) => sum + loss, 0) / countedTokens;
  if (!Number.isFinite(evalLoss)) throw new EngineError('nanLoss', 'nan_loss', `merged model: loss: expected a finite number, got ${evalLoss}`);
  return { evalLoss, kl: divergence / countedTokens, agreement: agreeing / countedTokens, losses, referenceLoss: referenceSum / countedTokens };
}

/** The logits of some of a batch's counted tokens, [size, vocabulary]. */
export async function logitsAt({ llama, hidden }: ReadSample, batch: number, from: number, size: number): Promise<Float32Array> {
  const logits = tidy(() => logitsOf(llama, slice(hidden[batch], [from, 0], [size, -1])));
  const values = (await logits.data()) as Float32Array;
  logits.dispose();
  return values;
}

/** KL(softmax p ‖ softmax q) in nats, whether both have the same maximum, and log Σ exp of each. */
export function compareLogits(p: Float32Array, q: Float32Array): { kl: number; sameBest: boolean; logSumP: number; logSumQ: number } {
  let [bestP, bestQ] = [0, 0];
  for (let i = 1; i < p.length; i++) {
    if (p[i] > p[bestP]) bestP = i;
    if (q[i] > q[bestQ]) bestQ = i;
  }
  let [sumP, sumQ, weighted] = [0, 0, 0];
  for (let i = 0; i < p.length; i++) {
    const weight = Math.exp(p[i] - p[bestP]);
    sumP += weight;
    sumQ += Math.exp(q[i] - q[bestQ]);
    weighted += weight * (p[i] - q[i]);
  }
  const [logSumP, logSumQ] = [p[bestP] + Math.log(sumP), q[bestQ] + Math.log(sumQ)];
  return { kl: Math.max(0, weighted / sumP - logSumP + logSumQ), sameBest: bestP === bestQ, logSumP, logSumQ };
}
