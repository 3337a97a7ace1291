import { cp, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { fineTuneConfigSchema } from '../../contracts/fine-tune-config.js';
import type { EvaluationPrompt, ModelRef } from '../../contracts/stages.js';
import type { TrainerResult } from '../../contracts/trainer-messages.js';
import { writeTokenFile } from '../../engine/data/token-file.js';
import { TokenTable } from '../../engine/data/token-table.js';
import { writeHuggingFaceModel } from '../../engine/formats/write-huggingface-model.js';
import { LoraAdapter } from '../../engine/model/adapter.js';
import { savePeft } from '../../engine/model/peft.js';
import { selectBackend } from '../../engine/tensor/backends.js';
import { runEngine } from '../kit/engine-process.js';
import { describeWithLlamaCpp } from '../kit/llama-cpp.js';
import { goldenTokenizer, randomModel, smallConfig } from '../kit/random-model.js';
import { temporaryDirectory } from '../kit/temporary.js';
import { randomRows } from '../kit/token-rows.js';

const directory = temporaryDirectory();
const modelDirectory = join(directory, 'model');
const adapterDirectory = join(directory, 'adapter');
const testTokens = join(directory, 'test.safetensors');
const { layers, hiddenSize, intermediateSize, heads, kvHeads, headDim, vocabSize, contextLength } = smallConfig;
const model: ModelRef = {
  uri: 'file:small', format: 'safetensors', license: 'mit', files: [{ name: 'config.json', uri: 'file:///config.json', sha256: '0'.repeat(64), bytes: 1, mediaType: 'application/json' }],
  architecture: { name: 'llama', layers, hiddenSize, intermediateSize, heads, kvHeads, headDim, vocabSize, contextLength, parameters: 1 },
};
let prompts: EvaluationPrompt[];
let count = 0;

beforeAll(async () => {
  await selectBackend();
  const source = randomModel();
  const tokenizer = await goldenTokenizer(directory, 'bytelevel');
  await writeHuggingFaceModel(modelDirectory, { config: source.config, read: (name) => source.read(name), tokenizer }, { dtype: 'f32' });
  const drawn = LoraAdapter.create(source.config, { rank: 4, alpha: 8, dropout: 0, targetModules: ['q_proj', 'v_proj', 'down_proj'] }, 1);
  const values = new Map([...(await drawn.values())].map(([name, { shape, values }]) => [name, { shape, values: values.map((value, i) => value + 0.1 * Math.sin(i)) }]));
  await savePeft(LoraAdapter.fromTensors(source.config, drawn.options, values), adapterDirectory, 'small');
  const rows = randomRows(6, { vocabulary: 640, longest: 20 });
  await writeTokenFile(testTokens, TokenTable.of(Array.from({ length: rows.count }, (_, row) => ({ ids: rows.ids(row), mask: rows.mask(row) }))));
  prompts = await Promise.all(['Hello world', 'The quick brown fox'].map(async (prompt): Promise<EvaluationPrompt> => {
    const promptIds = await tokenizer.encode(prompt);
    return { prompt, promptIds, ownPrompt: prompt, ownPromptIds: promptIds, reference: null, stop: '' };
  }));
});

async function merge(change: object): Promise<Extract<TrainerResult, { kind: 'merge' }>> {
  const outputDirectory = join(directory, `output-${count++}`);
  const { events } = await runEngine({
    kind: 'merge', model, modelDirectory, base: { dtype: 'int8' }, adapterDirectory, testTokens, prompts, outputDirectory,
    merge: fineTuneConfigSchema.shape.merge.parse({ measureTokens: 40 }), export: { gguf: ['f16', 'q8_0'] }, ...change,
  });
  const last = events.at(-1)!;
  if (last.event !== 'done' || last.result.kind !== 'merge') throw new Error(`last event: expected the result of merge, got ${JSON.stringify(last)}`);
  return last.result;
}
const files = ({ gguf }: { gguf: { path: string; type: string }[] }) => gguf.map(({ path, type }) => [path.split('/').at(-1), type]);
const expected = [['model-f16.gguf', 'f16'], ['model-q8_0.gguf', 'q8_0'], ['adapter.gguf', 'adapter']];

await describeWithLlamaCpp('a merge that exports', (llamaCpp) => {
  it('lets llama.cpp read what it wrote, the adapter on a GGUF of the base that is gone afterwards', { timeout: 120_000 }, async () => {
    const result = await merge({ llamaCpp });
    expect(files(result)).toEqual(expected);
    for (const { check } of result.gguf) expect(check).toMatchObject({ state: 'agrees', prompts: 2, sameTokens: 2 });
    expect(result.gguf.map(({ check }) => (check as { kl: number }).kl < 0.02)).toEqual([true, true, true]);
    expect((await readdir(join(result.gguf[0].path, '..'))).sort()).toEqual(['adapter.gguf', 'model-f16.gguf', 'model-q8_0.gguf']);
  });

  it('says of a tokenizer that llama.cpp reads otherwise that it differs', { timeout: 120_000 }, async () => {
    const wrong = prompts.map((prompt) => ({ ...prompt, promptIds: [...prompt.promptIds, 5] }));
    const { gguf } = await merge({ llamaCpp, prompts: wrong, export: { gguf: ['f16'] } });
    expect(gguf[0].check).toMatchObject({ state: 'differs', sameTokens: 0 });
  });
});

describe('a merge that exports without llama.cpp', () => {
  it('says that nothing was checked, and how it can be', async () => {
    const result = await merge({});
    expect(files(result)).toEqual(expected);
    for (const { check } of result.gguf) expect(check).toEqual({ state: 'not checked', reason: 'llama.cpp is not set up; npm run setup -- --llama-cpp does that' });
  });

  it('leaves out an adapter that a GGUF cannot hold, and says so', async () => {
    const tied = randomModel({ tiedEmbeddings: true });
    const [base, onHead] = [join(directory, 'tied'), join(directory, 'on-head')];
    await writeHuggingFaceModel(base, { config: tied.config, read: (name) => tied.read(name), tokenizer: await goldenTokenizer(directory, 'bytelevel') });
    await savePeft(LoraAdapter.create(tied.config, { rank: 4, alpha: 8, dropout: 0, targetModules: ['lm_head'] }, 1), onHead, 'tied');
    const { gguf, notes } = await merge({ modelDirectory: base, adapterDirectory: onHead, export: { gguf: ['f16'] } });
    expect(gguf.map(({ type }) => type)).toEqual(['f16']);
    expect(notes).toEqual(['The adapter has no GGUF, which cannot hold a branch on the head of tied embeddings; the merged model has it all.']);
  });

  it('tells from where on llama.cpp answers otherwise than a model with a sliding window', async () => {
    const sliding = randomModel({ architecture: 'mistral', slidingWindow: { size: 32 } });
    const base = join(directory, 'sliding');
    await writeHuggingFaceModel(base, { config: sliding.config, read: (name) => sliding.read(name), tokenizer: await goldenTokenizer(directory, 'bytelevel') });
    const { gguf, notes } = await merge({ modelDirectory: base, export: { gguf: ['f16'] } });
    expect(gguf.map(({ type }) => type)).toEqual(['f16', 'adapter']);
    expect(notes).toEqual(['llama.cpp reads this model without its sliding window: beyond 32 tokens the GGUF files answer otherwise than the model.']);
  });

  it('says so too when what is set up is not it, or there is nothing to ask', async () => {
    await cp(modelDirectory, join(directory, 'elsewhere'), { recursive: true });
    await writeFile(join(directory, 'elsewhere/package.json'), '{}');
    const { gguf: [broken] } = await merge({ llamaCpp: join(directory, 'elsewhere') });
    expect(broken.check).toMatchObject({ state: 'not checked', reason: expect.stringContaining('llama.cpp did not load model-f16.gguf') });
    const { gguf: [silent] } = await merge({ llamaCpp: join(directory, 'elsewhere'), prompts: [] });
    expect(silent.check).toEqual({ state: 'not checked', reason: 'the run has no prompts' });
  });
});
