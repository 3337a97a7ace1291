import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { memory, tensor } from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { parseHuggingFaceConfig, huggingFaceConfig } from '../../engine/formats/huggingface-config.js';
import { describeModel, openModel } from '../../engine/formats/open-model.js';
import type { Tokenizer } from '../../engine/formats/tokenizer.js';
import { LoraAdapter } from '../../engine/model/adapter.js';
import { generate } from '../../engine/model/generate.js';
import { logits, type LabelledBatch } from '../../engine/model/llama.js';
import { disposeModel, loadModel, type LlamaModel } from '../../engine/model/load.js';
import { mergeAdapter } from '../../engine/model/merge.js';
import { targetModules } from '../../engine/formats/linear-modules.js';
import { selectBackend } from '../../engine/tensor/backends.js';
import { architectureGolden, formula, formulaDirectory } from '../kit/formula-models.js';
import { goldenPath, readGolden, relativeError } from '../kit/golden.js';
import { batchGradients } from '../kit/gradients.js';
import { temporaryDirectory } from '../kit/temporary.js';

const { rows, prompts, models } = architectureGolden;
const ends = rows.map((_, row) => rows.slice(0, row + 1).reduce((sum, { length }) => sum + length, 0));
const width = ends[ends.length - 1];

/** Both rows, packed into one line. */
const batch: LabelledBatch = {
  shape: [1, width],
  inputIds: Int32Array.from(rows.flat()),
  positions: Int32Array.from(rows.flatMap((row) => row.map((_, i) => i))),
  segments: Int32Array.from(rows.flatMap((row, i) => row.map(() => i + 1))),
  labels: Int32Array.from(rows.flatMap((row) => row.map((_, i) => row[i + 1] ?? -100))),
};

/** A token is written as its number. */
const numbers = { decode: async (ids: ArrayLike<number>) => Array.from(ids).join(' ') } as Tokenizer;

let golden: Awaited<ReturnType<typeof readGolden>>;
beforeAll(async () => {
  await selectBackend();
  golden = await readGolden('architectures.safetensors');
});

async function load(path: string): Promise<LlamaModel> {
  const source = await openModel(path);
  try {
    return await loadModel(source, { dtype: 'f32' });
  } finally {
    await source.close();
  }
}

/** The largest relative error of a row's logits against transformers'. */
async function logitsError(model: LlamaModel, name: string): Promise<number> {
  const output = logits({ model }, batch);
  const values = (await output.data()) as Float32Array;
  output.dispose();
  const vocab = model.config.vocabSize;
  return Math.max(...rows.map(({ length }, row) => relativeError(values.subarray((ends[row] - length) * vocab, ends[row] * vocab), golden(`${name}.logits_${row}`).data)));
}

const noTokenizer = { files: async () => new Map<string, Uint8Array>() };

describe.each(Object.entries(models))('%s', (name, expected) => {
  let directory: string;
  let model: LlamaModel;
  beforeAll(async () => {
    directory = await formulaDirectory(expected);
    model = await load(directory);
  });

  it('has as many parameters as in transformers', async () => {
    expect((await describeModel(directory)).parameters).toBe(expected.parameters);
    expect(model.parameters).toBe(expected.parameters);
  });

  it("gives transformers' logits in packed rows", async () => {
    expect(await logitsError(model, name)).toBeLessThan(2e-5);
  });

  it('continues prompts as transformers continues each alone', async () => {
    const answers = await generate({ model }, numbers, prompts, { maxNewTokens: 40, stopIds: [] });
    expect(answers.map(({ ids }) => ids)).toEqual(expected.greedy);
  });

  it('is the same model when it is written and read again', async () => {
    const source = await openModel(directory);
    const written = temporaryDirectory();
    const adapter = LoraAdapter.create(source.config, { rank: 1, alpha: 1, dropout: 0, targetModules: ['q_proj'] }, 1);
    await mergeAdapter(source, adapter, noTokenizer, written);
    const again = await openModel(written);
    expect(again.config).toEqual(source.config);
    expect(again.names().sort()).toEqual(Object.keys(expected.tensors).sort());
    expect((JSON.parse(readFileSync(join(written, 'config.json'), 'utf8')) as Record<string, unknown>).architectures).toEqual(expected.config.architectures);
    adapter.dispose();
    await Promise.all([source.close(), again.close()]);
  });

  it('is read alike from the config.json of transformers 4', () => {
    const { rope_parameters: rope, ...rest } = expected.config as { rope_parameters: Record<string, unknown> };
    const { rope_theta, ...scaling } = rope;
    const old = { ...rest, rope_theta, rope_scaling: scaling.rope_type === 'default' ? null : { ...scaling, type: scaling.rope_type, rope_type: undefined } };
    expect(parseHuggingFaceConfig(old, {}, 'config.json')).toEqual(model.config);
    expect(parseHuggingFaceConfig(huggingFaceConfig(model.config, 'bf16'), {}, 'config.json')).toEqual(model.config);
  });

  const gguf = [`${name}.gguf`, `${name}-00001-of-00003.gguf`].map((file) => goldenPath(`architectures/${file}`)).find(existsSync);
  it.runIf(gguf)("gives the same logits from llama.cpp's conversion", async () => {
    const converted = await load(gguf!);
    // The converter takes the special tokens from the vocabulary, which these files lack.
    expect(converted.config).toEqual({ ...model.config, bosTokenId: undefined, eosTokenIds: [] });
    expect(await logitsError(converted, name)).toBeLessThan(2e-5);
    disposeModel(converted);
  });

  it.runIf(expected.lora).each([false, true])("gives PEFT's loss, LoRA gradients and parameter count (recomputing blocks: %s)", async (recompute) => {
    const { loss: expectedLoss, parameters } = expected.lora!;
    const adapter = LoraAdapter.create(model.config, { rank: 2, alpha: 3, dropout: 0, targetModules: [...targetModules] }, 1);
    let count = 0;
    for (const { name: parameter, variable } of adapter.parameters()) {
      const fresh = tensor(formula(parameter, variable.size).map((value) => Math.fround(0.2) * value), variable.shape);
      variable.assign(fresh);
      fresh.dispose();
      count += variable.size;
    }
    expect(count).toBe(parameters);
    const { loss, gradients } = batchGradients({ model, adapter }, batch, { weight: 1, recompute });
    expect(Math.abs((await loss.data())[0] / expectedLoss - 1)).toBeLessThan(1e-6);
    const errors = await Promise.all(adapter.parameters().map(async ({ name: parameter }, i) => [parameter, relativeError(await gradients[i].data(), golden(`${name}.grad.${parameter}`).data)] as const));
    expect(errors.filter(([, error]) => !(error < 1e-4))).toEqual([]);
    [loss, ...gradients].forEach((tensor) => tensor.dispose());
    adapter.dispose();
  });

  it('is disposed of whole', async () => {
    const before = memory().numTensors;
    disposeModel(await load(directory));
    expect(memory().numTensors).toBe(before);
  });
});
