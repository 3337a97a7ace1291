import { dispose, memory } from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { logits, type LabelledBatch } from '../../engine/model/llama.js';
import type { LlamaModel } from '../../engine/model/load.js';
import { loadPeft } from '../../engine/model/peft.js';
import type { LoraAdapter } from '../../engine/model/adapter.js';
import { selectBackend } from '../../engine/tensor/backends.js';
import { goldenPath, readGolden, relativeError } from '../kit/golden.js';
import { batchGradients } from '../kit/gradients.js';
import { withShelf } from '../kit/shelf.js';
import { loadSmallModel } from '../kit/small-model.js';

let model: LlamaModel;
let adapter: LoraAdapter;
let golden: Awaited<ReturnType<typeof readGolden>>;
let batch: LabelledBatch;
let lengths: number[];

beforeAll(async () => {
  await selectBackend();
  golden = await readGolden('model/expected.safetensors');
  model = await loadSmallModel({ dtype: 'f32' });
  adapter = await loadPeft(model.config, goldenPath('model/adapter'));
  const { shape, data: ids } = golden('input_ids');
  const [rows, width] = shape;
  const mask = golden('attention_mask').data;
  const next = golden('labels').data;
  const labels = Int32Array.from(ids, (_, i) => (i % width === width - 1 ? -100 : next[i + 1]));
  batch = { shape: [rows, width], inputIds: ids as Int32Array, positions: Int32Array.from(ids, (_, i) => i % width), segments: mask as Int32Array, labels };
  lengths = Array.from({ length: rows }, (_, row) => Array.from(mask.subarray(row * width, (row + 1) * width)).reduce((sum, here) => sum + here, 0));
});

/** Values at the positions that are not padding. */
function unpadded(values: Float32Array): Float32Array {
  const [, width] = batch.shape;
  const vocab = model.config.vocabSize;
  return Float32Array.from(lengths.flatMap((length, row) => [...values.subarray(row * width * vocab, (row * width + length) * vocab)]));
}

describe('a LLaMA with grouped heads', () => {
  it('gives the logits of transformers', async () => {
    const actual = (await logits({ model }, batch).data()) as Float32Array;
    expect(relativeError(unpadded(actual), unpadded(golden('base_logits').data as Float32Array))).toBeLessThan(1e-5);
  });

  it('gives the logits of PEFT with an adapter that PEFT wrote', async () => {
    const actual = (await logits({ model, adapter }, batch).data()) as Float32Array;
    expect(relativeError(unpadded(actual), unpadded(golden('adapter_logits').data as Float32Array))).toBeLessThan(1e-5);
  });

  it.each([
    ['keeping what the blocks computed', { recompute: false, padsCounted: false }],
    ['running the blocks again', { recompute: true, padsCounted: false }],
    ['with the counted positions padded', { recompute: false, padsCounted: true }],
  ])('gives the loss and every LoRA gradient of PyTorch, %s', async (_name, { recompute, padsCounted }) => {
    const counted = batch.labels.filter((label) => label >= 0).length;
    const { loss, gradients } = batchGradients({ model, adapter }, batch, { weight: 1 / counted, recompute, padsCounted });
    expect((await loss.data())[0] / counted).toBeCloseTo(golden('loss').data[0], 5);
    const errors = adapter.parameters().map(({ name }, i) => [name, relativeError(gradients[i].dataSync(), golden(`grad.${name}`).data)] as const);
    expect(errors).toHaveLength(2 * (7 * 2 + 1));
    expect(errors.filter(([, error]) => !(error < 1e-4))).toEqual([]);
  });

  it('runs blocks again with attention as it was, where there is a shelf for it', async () => {
    const options = { weight: 1, recompute: true }, tensors = [memory().numTensors];
    const plain = batchGradients({ model, adapter }, batch, options);
    tensors.push(memory().numTensors);
    const { result: { loss, gradients }, counts } = withShelf(() => batchGradients({ model, adapter }, batch, options));
    tensors.push(memory().numTensors);
    expect(tensors[2] - tensors[1]).toBe(tensors[1] - tensors[0]);
    // Halves of blocks in turn, but for the last block's: an attention half's input, attention's result and its state; a feed-forward half's input.
    expect(counts).toEqual(Array.from({ length: 2 * model.config.layers - 2 }, (_, place) => (place % 2 === 0 ? 3 : 1)));
    expect(loss.dataSync()).toEqual(plain.loss.dataSync());
    gradients.forEach((gradient, i) => expect(gradient.dataSync()).toEqual(plain.gradients[i].dataSync()));
    dispose([loss, plain.loss, ...gradients, ...plain.gradients]);
  });

  it('gives the same, whatever the counted positions are padded to', async () => {
    const few = { ...batch, labels: batch.labels.map((label, place) => (place % 5 === 0 ? label : -100)) };
    for (const labels of [batch.labels, few.labels]) {
      const [plain, padded] = [false, true].map((padsCounted) => batchGradients({ model, adapter }, { ...batch, labels }, { weight: 1, padsCounted }));
      expect((await padded.loss.data())[0] / (await plain.loss.data())[0]).toBeCloseTo(1, 5);
      padded.gradients.forEach((gradient, i) => expect(relativeError(gradient.dataSync(), plain.gradients[i].dataSync())).toBeLessThan(1e-5));
    }
  });
});
