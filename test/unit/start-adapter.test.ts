import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { trainStage } from '../../activities/train.js';
import { validate } from '../../activities/validate.js';
import { InvalidInputError } from '../../contracts/errors.js';
import type { LlamaConfig } from '../../engine/formats/llama-config.js';
import { adaptedModules } from '../../engine/formats/lora-modules.js';
import { describeModel } from '../../engine/formats/open-model.js';
import { peftTensorName, writePeftAdapter, type PeftTensor } from '../../engine/formats/peft-adapter.js';
import type { PeftAdapterConfig } from '../../engine/formats/peft-config.js';
import { sha256 } from '../../store/digest.js';
import { stageKit } from '../kit/stage.js';
import { temporaryDirectory } from '../kit/temporary.js';
import { someConfig, someModel } from '../kit/trainer-job.js';

const root = temporaryDirectory();
const settings = { dataRoots: [root], cacheDirectory: join(root, 'cache') };
const options: PeftAdapterConfig = {
  rank: 3, alpha: 24, dropout: 0.2, targetModules: ['v_proj', 'q_proj'], layersToTransform: [1], useRsLora: true, rankPattern: { v_proj: 2 }, baseModel: 'elsewhere/model',
};
const config = (lora: object): unknown => ({
  name: 'run', model: { uri: 'file:model.gguf' }, dataset: { uri: 'file:data.csv' }, lora,
  format: { instruction: 'Describe {product}:', response: '{description}', maxLength: 64 },
});

async function writeAdapter(directory: string, model: LlamaConfig, changes: Partial<PeftAdapterConfig> = {}): Promise<void> {
  const all = { ...options, ...changes };
  const tensors = new Map(adaptedModules(model, all).flatMap(({ path, rank, shape: [out, inner] }): [string, PeftTensor][] => [
    [peftTensorName(path, 'A'), { shape: [rank, inner], values: new Float32Array(rank * inner) }],
    [peftTensorName(path, 'B'), { shape: [out, rank], values: new Float32Array(out * rank) }],
  ]));
  await writePeftAdapter(join(root, directory), { config: all, tensors });
}

async function problemsOf(lora: object): Promise<string[]> {
  const error = await validate(config(lora), settings).catch((caught: unknown) => caught);
  if (!(error instanceof InvalidInputError)) throw error instanceof Error ? error : new Error('expected it to be refused');
  return error.problems.map(({ path, message }) => `${path}: ${message}`);
}

beforeAll(async () => {
  copyFileSync('test/golden/formats-model.gguf', join(root, 'model.gguf'));
  writeFileSync(join(root, 'data.csv'), `product,description\n${Array.from({ length: 40 }, (_, i) => `p${i},d${i}`).join('\n')}\n`);
  const model = await describeModel(join(root, 'model.gguf'));
  await writeAdapter('adapter', model);
  await writeAdapter('wider', { ...model, hiddenSize: model.hiddenSize * 2 });
  await writeAdapter('deeper', { ...model, layers: 8 }, { layersToTransform: [1, 7] });
  await writeAdapter('strange', model);
  const path = join(root, 'strange', 'adapter_config.json');
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), use_qalora: true, init_lora_weights: 'olora' }));
});

describe('a training that goes on from an adapter', () => {
  it('is refused where an option of the adapter does not fit the model; one that was given too is named as given', async () => {
    const message = /expected less than \d, the number of layers, got 7$/;
    expect(await problemsOf({ from: 'file:deeper' })).toEqual([expect.stringMatching(new RegExp(`^lora\\.from: the adapter's layersToTransform\\[1\\] does not fit the model: ${message.source}`))]);
    expect(await problemsOf({ from: 'file:deeper', layersToTransform: [1, 7] })).toEqual([expect.stringMatching(new RegExp(`^lora\\.layersToTransform\\[1\\]: ${message.source}`))]);
  });

  it('has its options, and the adapter pinned', async () => {
    const { config: { lora }, startAdapter } = await validate(config({ from: 'file:adapter', loraPlusRatio: 4 }), settings);
    expect(lora).toMatchObject({
      from: 'file:adapter', rank: 3, alpha: 24, dropout: 0.2, targetModules: ['q_proj', 'v_proj'], layersToTransform: [1], useRsLora: true, rankPattern: { v_proj: 2 }, loraPlusRatio: 4,
    });
    const file = readFileSync(join(root, 'adapter', 'adapter_config.json'));
    expect(startAdapter).toHaveLength(2);
    expect(startAdapter![0]).toMatchObject({ name: 'adapter_config.json', uri: pathToFileURL(join(root, 'adapter', 'adapter_config.json')).href, sha256: sha256(file), bytes: file.length });
  });

  it('may be given the same again, and another dropout', async () => {
    const { config: { lora } } = await validate(config({ from: 'file:adapter', rank: 3, targetModules: ['q_proj', 'v_proj'], dropout: 0 }), settings);
    expect(lora).toMatchObject({ rank: 3, dropout: 0 });
  });

  it('is refused options of another, all at once', async () => {
    expect(await problemsOf({ from: 'file:adapter', rank: 8, useDora: true, targetModules: ['q_proj'], layersToTransform: [0] })).toEqual([
      'lora.rank: expected 3, as the adapter of lora.from has, got 8',
      'lora.useDora: expected false, as the adapter of lora.from has, got true',
      'lora.targetModules: expected ["q_proj","v_proj"], as the adapter of lora.from has, got ["q_proj"]',
      'lora.layersToTransform: expected [1], as the adapter of lora.from has, got [0]',
    ]);
    expect(await problemsOf({ from: 'file:adapter', initLoraWeights: 'gaussian' })).toEqual(['lora.initLoraWeights: expected none with lora.from, whose weights are there, got gaussian']);
  });

  it('is refused an adapter that is not there, is none, or does not fit', async () => {
    expect(await problemsOf({ from: 'file:nowhere' })).toEqual([expect.stringMatching(/^lora\.from: .*nowhere/)]);
    expect(await problemsOf({ from: 'file:cache' })).toEqual([expect.stringMatching(/^lora\.from: .*cache/)]);
    expect(await problemsOf({ from: `${pathToFileURL(root)}` })).toEqual([expect.stringMatching(/^lora\.from: expected a PEFT directory, with adapter_config\.json and adapter_model\.safetensors, at .*, got .*data\.csv/)]);
    expect(await problemsOf({ from: 'smollm2-135m-instruct' })).toEqual([expect.stringContaining("lora.from: expected hf://OWNER/NAME, file:PATH, s3://BUCKET/KEY, got 'smollm2-135m-instruct'")]);
    expect(await problemsOf({ from: 'file:wider' })).toEqual([expect.stringMatching(/^lora\.from: it does not fit the model: base_model\.model\.model\.layers\.1\.self_attn\.q_proj\.lora_A\.weight: expected \[3,\d+\], got \[3,\d+\]/)]);
  });

  it('is refused an adapter of options that are not known, by their names', async () => {
    expect(await problemsOf({ from: 'file:strange' })).toEqual([expect.stringMatching(
      /^lora\.from: .*init_lora_weights: expected a way that leaves the weights of the base as they are, got "olora"; use_qalora: expected none, got true/,
    )]);
  });
});

describe('the train stage', () => {
  it('hands the adapter to start from to the engine', async () => {
    const kit = await stageKit();
    const tokens = await kit.context.store.putBytes(Buffer.from('tokens'), 'application/octet-stream');
    const opened: unknown[] = [];
    const jobs: unknown[] = [];
    const { base, lora, train } = someConfig();
    const startAdapter = [{ name: 'adapter_config.json', uri: 'file:///a/adapter_config.json', sha256: 'a'.repeat(64), bytes: 2, mediaType: 'application/json' }];
    const run = (input: object) => trainStage.run({ model: someModel, base, lora, train, trainTokens: tokens, testTokens: tokens, ...input }, {
      ...kit.context,
      workDirectory: temporaryDirectory(),
      models: { open: (model, _progress, path = 'model.uri') => Promise.resolve((opened.push([model.files[0].name, path]), path)) },
      runTrainer: (job) => (jobs.push(job), Promise.reject(new Error('far enough'))),
    });
    await expect(run({ startAdapter })).rejects.toThrow('far enough');
    await expect(run({})).rejects.toThrow('far enough');
    expect(opened).toEqual([['config.json', 'model.uri'], ['adapter_config.json', 'lora.from'], ['config.json', 'model.uri']]);
    expect(jobs).toMatchObject([{ modelDirectory: 'model.uri', adapterDirectory: 'lora.from' }, { modelDirectory: 'model.uri', adapterDirectory: undefined }]);
    await kit.remove();
  });
});
