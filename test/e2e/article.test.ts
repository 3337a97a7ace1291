import { cp, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { checkConfig } from '../../contracts/check-config.js';
import type { FineTuneInput } from '../../contracts/fine-tune-config.js';
import type { FineTuneResult } from '../../contracts/pipeline.js';
import type { Answer } from '../../contracts/stages.js';
import { sampleIndices, splitIndices } from '../../engine/data/splits.js';
import { goldenPath } from '../kit/golden.js';
import { startHub, type Hub } from '../kit/hub-server.js';
import { startLiveStack, type LiveStack } from '../kit/live-stack.js';
import { temporaryDirectory } from '../kit/temporary.js';

/**
 * The article's arms, from a hub that has miniatures of its model (test/golden/article.py: PyTorch weights, SentencePiece
 * vocabulary) and its dataset under their names. Set TEMPER_KEEP_ARTICLE to a folder to keep what was published:
 * test/golden/article-check.py has transformers, PEFT and llama.cpp look at it.
 */
const directory = temporaryDirectory();
const published = process.env.TEMPER_KEEP_ARTICLE ?? join(directory, 'published');
let hub: Hub;
let stack: LiveStack;
const results = new Map<string, FineTuneResult>();

const rows = Array.from({ length: 120 }, (_, row) => ({
  product: `Lamp ${row}`, category: row % 2 ? 'lamp' : 'chair', description: `A small quiet lamp number ${row} with soft edges for home use.`, text: '',
}));

beforeAll(async () => {
  const dataset = join(directory, 'dataset');
  await mkdir(dataset, { recursive: true });
  await cp(goldenPath('article'), join(directory, 'model'), { recursive: true });
  await writeFile(join(dataset, 'train.csv'), ['product,category,description,text', ...rows.map((row) => Object.values(row).join(','))].join('\n'));
  hub = await startHub({
    models: { 'openlm-research/open_llama_3b_v2': join(directory, 'model') },
    datasets: { 'xiyuez/red-dot-design-award-product-description': dataset },
  });
  stack = await startLiveStack(directory, { HF_ENDPOINT: hub.endpoint, HF_HOME: join(directory, 'hf'), HF_TOKEN: '', HF_HUB_OFFLINE: '' });
  for (const arm of ['arm-1', 'arm-2', 'arm-3', 'arm-4']) results.set(arm, await (await stack.run(await miniature(arm), arm)).result());
});
afterAll(async () => {
  await stack?.stopAll();
  await hub?.close();
});

/** An arm as it is, but for the number of rows, steps and tokens. */
async function miniature(arm: string): Promise<FineTuneInput> {
  const config = checkConfig(JSON.parse(await readFile(new URL(`../../examples/article/${arm}.json`, import.meta.url), 'utf8')));
  return {
    ...config,
    dataset: { ...config.dataset, sample: { rows: 100, seed: config.dataset.sample!.seed } },
    train: { ...config.train, epochs: undefined, steps: 6, evalEvery: 3, learningRate: 5e-3 },
    evaluate: { ...config.evaluate, testRows: 2, maxNewTokens: 8 },
    export: { gguf: ['f16', 'q8_0'] },
    publish: { uri: pathToFileURL(join(published, arm)).href },
  };
}

describe("the article's arms in miniature", () => {
  it('fetch model and dataset from the hub once, pinned to their commits', () => {
    const [model, dataset] = [hub.commit('openlm-research/open_llama_3b_v2'), hub.commit('xiyuez/red-dot-design-award-product-description')];
    const weights = hub.requests.filter((request) => request.startsWith('GET') && request.includes('pytorch_model.bin'));
    expect(weights.some((request) => request.includes(model))).toBe(true);
    expect(hub.requests.some((request) => request.includes(`${dataset}/train.csv`))).toBe(true);
  });

  it('train the parameters that their targets have in this model', () => {
    const block = { attention: 2 * 64, feedForward: 64 + 128 }, layers = 2;
    const all = layers * (4 * block.attention + 3 * block.feedForward) + (64 + 400);
    expect([...results.values()].map(({ train }) => train.trainableParameters)).toEqual([8 * 2 * layers * block.attention, 16 * 2 * layers * block.attention, 8 * all, 8 * all]);
  });

  it('share ingest, tokens and baseline, and lower the held-out loss', () => {
    for (const arm of ['arm-2', 'arm-3', 'arm-4']) {
      expect(results.get(arm)!.stages.filter(({ reused }) => reused).map(({ name }) => name)).toEqual(['ingest', 'format', 'baseline']);
    }
    for (const { baseline, tuned } of results.values()) expect(tuned.evalLoss).toBeLessThan(baseline.evalLoss);
  });

  it('are tested on the rows that pandas and datasets hold out', async () => {
    const sample = sampleIndices(rows.length, 100, 42);
    const { test } = splitIndices(100, 5, 42);
    const answers = JSON.parse((await stack.store.getBytes(results.get('arm-1')!.artifacts.tunedAnswers)).toString('utf8')) as Answer[];
    const asked = answers.filter(({ reference }) => reference !== null).map(({ reference }) => reference);
    for (const row of test.subarray(0, 2)) expect(asked).toContain(rows[sample[row]].description);
  });
});
