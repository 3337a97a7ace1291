import { readFile } from 'node:fs/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { describeTrainable } from '../../contracts/trainable-parameters.js';
import { openModel } from '../../engine/formats/open-model.js';
import { LoraAdapter } from '../../engine/model/adapter.js';
import { loadModel } from '../../engine/model/load.js';
import { mergeAdapter } from '../../engine/model/merge.js';
import { loadPeft, savePeft } from '../../engine/model/peft.js';
import { selectBackend } from '../../engine/tensor/backends.js';
import { goldenPath, readGolden, relativeError } from '../kit/golden.js';
import { cases, firstLogits, loadBase, openBase, trainCase } from '../kit/lora-cases.js';
import { smallLora } from '../kit/small-model.js';
import { temporaryDirectory } from '../kit/temporary.js';

let golden: Awaited<ReturnType<typeof readGolden>>;
beforeAll(async () => {
  await selectBackend();
  golden = await readGolden('lora/final.safetensors');
});

describe.each(Object.keys(cases))('PEFT with %s', (name) => {
  const { base, loss, gradNorm, trainable, total } = cases[name];

  it.each([false, true])('trains as here, step by step, to the same adapter (blocks run again: %s)', async (checkpointing) => {
    const { model, adapter, steps } = await trainCase(name, { checkpointing });
    expect(steps).toHaveLength(loss.length);
    steps.forEach((step, i) => {
      expect(Math.abs(step.loss - loss[i]), `loss of step ${i + 1}`).toBeLessThan(1e-5);
      expect(Math.abs(step.grad_norm / gradNorm[i] - 1), `gradient norm of step ${i + 1}`).toBeLessThan(1e-4);
    });
    for (const [parameter, { values }] of await adapter.values()) {
      if (values.length <= 2048) expect(relativeError(values, golden(`${name}/${parameter}`).data), parameter).toBeLessThan(1e-3);
    }
    expect(relativeError(await firstLogits({ model, adapter }), golden(`${name}/logits`).data)).toBeLessThan(1e-4);
    if (base !== 'nf4') expect(describeTrainable(adapter.size, model.parameters + adapter.added)).toBe(describeTrainable(trainable, total)); // PEFT counts packed bytes
  });

  it('is written as PEFT wrote it, and merges into what it computes', async () => {
    const { model, adapter } = await trainCase(name);
    const directory = `${temporaryDirectory()}/adapter`;
    await savePeft(adapter, directory, 'base');
    const [ours, theirs] = await Promise.all([directory, goldenPath(`lora/${name}`)].map(readConfig));
    for (const key of Object.keys(ours)) expect(ours[key], key).toEqual(theirs[key]);
    const again = await loadPeft(model.config, directory);
    const tuned = await firstLogits({ model, adapter });
    expect(relativeError(await firstLogits({ model, adapter: again }), tuned)).toBe(0);
    if (base === 'nf4' || base === 'int8') return;

    const source = await openBase(base);
    const merged = `${directory}-merged`;
    await mergeAdapter(source, adapter, { files: async () => new Map<string, Uint8Array>() }, merged, { dtype: 'f32' });
    const written = await openModel(merged);
    expect(written.config.tiedEmbeddings).toBe(false);
    const plain = await loadModel(written, { dtype: 'f32' }).finally(() => written.close());
    expect(relativeError(await firstLogits({ model: plain }), tuned)).toBeLessThan(1e-5);
    expect(relativeError(await firstLogits({ model }), tuned)).toBeGreaterThan(1e-2);
    await source.close();
  });
});

/** The keys that say what an adapter is, in one form of several that mean the same. */
async function readConfig(directory: string): Promise<Record<string, unknown>> {
  const config = JSON.parse(await readFile(`${directory}/adapter_config.json`, 'utf8')) as Record<string, unknown>;
  const targets = config.target_modules;
  // PEFT spells `all-linear` out as whole names; their ends select the same.
  return { ...config, target_modules: Array.isArray(targets) ? [...new Set(targets.map((target: string) => target.replace(/^model\.layers\.\d+\.\w+\./, '')))].sort() : targets };
}

describe('an adapter as it is started', () => {
  it('computes what the base does, and copies what it trains in full', async () => {
    const model = await loadBase('biased');
    const lora = smallLora({ targetModules: ['q_proj', 'up_proj'], bias: 'all', useDora: true, modulesToSave: ['embed_tokens', 'lm_head'] });
    const adapter = LoraAdapter.create(model.config, lora, 1, model);
    expect(relativeError(await firstLogits({ model, adapter }), await firstLogits({ model }))).toBeLessThan(1e-6);
    expect(adapter.size - adapter.added).toBe(2 * (64 + 32 + 32 + 64));
  });

  it('draws A with a deviation of 1/rank where it is gaussian', async () => {
    const model = await loadBase('f32');
    const a = (await LoraAdapter.create(model.config, smallLora({ initLoraWeights: 'gaussian', rank: 8 }), 1).values()).get('base_model.model.lm_head.lora_A.weight')!.values;
    const moment = (power: number): number => a.reduce((sum, value) => sum + (value * 8) ** power, 0) / a.length;
    const within = 5 / Math.sqrt(a.length);
    expect(Math.abs(moment(1))).toBeLessThan(within);
    expect(Math.abs(moment(2) - 1)).toBeLessThan(within * Math.sqrt(2));
    expect(Math.abs(moment(4) - 3)).toBeLessThan(within * Math.sqrt(96));
  });
});
