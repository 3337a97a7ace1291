import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { parseSize, type BaseConfig, type MergeConfig } from '../../contracts/fine-tune-config.js';
import type { MergedOnto, MergeMeasure } from '../../contracts/stages.js';
import type { TokenRows } from '../data/batches.js';
import { openModel } from '../formats/open-model.js';
import type { Tokenizer } from '../formats/tokenizer.js';
import type { WeightSource } from '../formats/weight-source.js';
import type { LoraAdapter } from '../model/adapter.js';
import { dequantizedSource, isQuantized } from '../model/dequantized-source.js';
import { mergeAdapter } from '../model/merge.js';
import { compareReadings, readSample, sampleRows, type Comparison, type ReadSample, type Sample } from './merge-fidelity.js';

export interface MergeInput {
  source: WeightSource;
  /** What the adapter was trained on. */
  base: BaseConfig;
  adapter: LoraAdapter;
  tokenizer: Pick<Tokenizer, 'files' | 'padTokenId'>;
  testRows: TokenRows;
  merge: MergeConfig;
  /** A directory of the merge's own. */
  directory: string;
  /** Called often; a promise is awaited. */
  onProgress(phase: string, done: number, total: number): Promise<void>;
}

export interface MergedModel {
  /** A Hugging Face directory. */
  directory: string;
  kept: { onto: MergedOnto; reason: string };
  measured?: MergeMeasure;
}

interface Way extends Comparison {
  onto: MergedOnto;
  directory: string;
}

/** Below this many standard errors, a difference of two losses is none. */
const significance = 2;

/**
 * Merges an adapter in every way that its base allows, measures each as it lies on the disk, and keeps the better. A lower loss on
 * the test rows decides where the difference is more than two standard errors of it (paired, token by token); otherwise the one
 * whose distributions are closer to those of the unmerged model.
 */
export async function mergeBetterWay(input: MergeInput): Promise<MergedModel> {
  const { source, base, adapter, testRows, merge, onProgress } = input;
  const quantized = isQuantized(base);
  if (merge.measureTokens === 0) {
    const reason = quantized ? 'nothing was measured, as merge.measureTokens is 0' : `the base ${base.dtype} can be merged in one way`;
    return { directory: await write(input, 'original'), kept: { onto: 'original', reason } };
  }
  const sample = sampleRows(testRows, merge.measureTokens);
  const reading = (phase: string) => (done: number, total: number) => onProgress(phase, done, total);
  const unmerged = await readSample(source, base, adapter, sample, reading('measuring the unmerged model'));
  try {
    const ways: Way[] = [];
    for (const onto of quantized ? (['original', 'dequantized'] as const) : (['original'] as const)) {
      ways.push(await measure(onto, await write(input, onto), unmerged, sample, input));
    }
    const { kept, reason } = choose(ways, base);
    for (const { directory } of ways) if (directory !== kept.directory) await rm(directory, { recursive: true });
    return {
      directory: kept.directory,
      kept: { onto: kept.onto, reason },
      measured: {
        tokens: sample.tokens, countedTokens: sample.countedTokens, unmergedLoss: ways[0].referenceLoss,
        ways: ways.map(({ onto, evalLoss, kl, agreement }) => ({ onto, evalLoss, kl, agreement })),
      },
    };
  } finally {
    unmerged.dispose();
  }
}

async function write({ source, base, adapter, tokenizer, merge, directory, onProgress }: MergeInput, onto: MergedOnto): Promise<string> {
  const target = join(directory, onto);
  await mergeAdapter(onto === 'original' ? source : dequantizedSource(source, base), adapter, tokenizer, target, {
    dtype: merge.dtype,
    maxShardBytes: parseSize(merge.maxShardSize),
    onTensor: (done, total) => onProgress(`merging onto the ${onto} weights`, done, total),
  });
  return target;
}

async function measure(onto: MergedOnto, directory: string, unmerged: ReadSample, sample: Sample, { onProgress }: MergeInput): Promise<Way> {
  const source = await openModel(directory);
  try {
    const merged = await readSample(source, { dtype: 'f32' }, undefined, sample, (done, total) => onProgress(`measuring the merge onto the ${onto} weights`, done, total));
    try {
      return { onto, directory, ...(await compareReadings(unmerged, merged, sample)) };
    } finally {
      merged.dispose();
    }
  } finally {
    await source.close();
  }
}

function choose(ways: readonly Way[], base: BaseConfig): { kept: Way; reason: string } {
  const [original, dequantized] = ways;
  if (dequantized === undefined) return { kept: original, reason: `the base ${base.dtype} can be merged in one way` };
  const differences = original.losses.map((loss, token) => loss - dequantized.losses[token]);
  const { mean, error } = meanAndError(differences);
  const byLoss = Math.abs(mean) > significance * error;
  const [kept, other] = (byLoss ? mean < 0 : original.kl < dequantized.kl) ? [original, dequantized] : [dequantized, original];
  const losses = `${kept.evalLoss.toFixed(4)} against ${other.evalLoss.toFixed(4)}, ± ${error.toFixed(4)}`;
  const reason = byLoss
    ? `its loss on the test rows is lower: ${losses}`
    : `it is closer to the unmerged model: KL ${kept.kl.toExponential(1)} against ${other.kl.toExponential(1)}; the losses are the same within their error (${losses})`;
  return { kept, reason };
}

/** Mean and its standard error; infinite for a single value. */
function meanAndError(values: Float64Array): { mean: number; error: number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, error: values.length > 1 ? Math.sqrt(squares / (values.length - 1) / values.length) : Infinity };
}
