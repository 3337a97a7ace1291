import { sub, tidy } from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { packRows } from '../../engine/data/batches.js';
import { BatchFeed } from '../../engine/model/batch-feed.js';
import { embedBatch } from '../../engine/model/llama.js';
import type { LlamaModel } from '../../engine/model/load.js';
import { selectBackend } from '../../engine/tensor/backends.js';
import { trainAdapter } from '../../engine/train/train.js';
import { loadSmallModel, smallLora, smallTrain } from '../kit/small-model.js';
import { randomRows } from '../kit/token-rows.js';

const rows = randomRows(6, { vocabulary: 128, longest: 18 });
const alpha = 5;
let model: LlamaModel;
beforeAll(async () => {
  await selectBackend();
  model = await loadSmallModel({ dtype: 'f32' });
});

/** What is added to the embeddings of a batch of two rows. */
function noise(microBatch: number | undefined): Float32Array {
  const feed = new BatchFeed(model.config, 18, false, alpha);
  const inputs = feed.upload(packRows(rows, [0, 1], { multipleOf: 32 }));
  try {
    return tidy(() => {
      const batch = feed.open(inputs);
      const draw = microBatch === undefined ? undefined : { seed: 1, step: 1, microBatch };
      return sub(embedBatch({ model, draw }, batch), embedBatch({ model }, batch)).dataSync() as Float32Array;
    });
  } finally {
    inputs.forEach((input) => input.dispose());
    feed.dispose();
  }
}

describe('NEFTune', () => {
  it('adds uniform noise of magnitude alpha / √(tokens of the longest row · width), whatever the lines are padded to', () => {
    const magnitude = alpha / Math.sqrt(Math.max(rows.length(0), rows.length(1)) * model.config.hiddenSize);
    const values = noise(0);
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    expect(largest).toBeLessThanOrEqual(magnitude * (1 + 1e-5));
    expect(largest).toBeGreaterThan(0.99 * magnitude);
    const variance = values.reduce((sum, value) => sum + value ** 2, 0) / values.length;
    expect(Math.abs(variance / (magnitude ** 2 / 3) - 1)).toBeLessThan(5 * Math.sqrt(0.8 / values.length)); // the fourth moment is 9/5 of its square
  });

  it('draws anew for each micro-batch, and nothing outside of training', () => {
    expect(noise(1)).not.toEqual(noise(0));
    expect(noise(1)).toEqual(noise(1));
    expect(noise(undefined).every((value) => value === 0)).toBe(true);
  });

  it('changes what is trained, the same with blocks that are run again', async () => {
    const train = async (options: Parameters<typeof smallTrain>[0]) => {
      const { adapter, history } = await trainAdapter({ model, lora: smallLora(), train: smallTrain({ steps: 3, ...options }), trainRows: rows, testRows: rows });
      const losses = history.log_history.flatMap((entry) => ('loss' in entry ? [entry.loss] : []));
      adapter.dispose();
      return losses;
    };
    const [plain, noisy, again] = [await train({}), await train({ neftuneNoiseAlpha: alpha }), await train({ neftuneNoiseAlpha: alpha, checkpointing: true })];
    expect(Math.abs(noisy[0] - plain[0])).toBeGreaterThan(1e-3);
    noisy.forEach((loss, i) => expect(again[i]).toBeCloseTo(loss, 5));
  });
});
