import { beforeAll, describe, expect, it } from 'vitest';
import { openModel } from '../../engine/formats/open-model.js';
import type { WeightSource } from '../../engine/formats/weight-source.js';
import { LoraAdapter } from '../../engine/model/adapter.js';
import { loadModel } from '../../engine/model/load.js';
import { logits, type Llama } from '../../engine/model/llama.js';
import { mergeAdapter } from '../../engine/model/merge.js';
import { loadPeft } from '../../engine/model/peft.js';
import { selectBackend } from '../../engine/tensor/backends.js';
import { goldenPath, relativeError } from '../kit/golden.js';
import { loadSmallModel } from '../kit/small-model.js';
import { temporaryDirectory } from '../kit/temporary.js';

const noTokenizer = { files: async () => new Map<string, Uint8Array>() };
const directory = temporaryDirectory();
const ids = Int32Array.from({ length: 12 }, (_, i) => 3 + ((i * 37) % 120));
const batch = { shape: [1, ids.length] as [number, number], inputIds: ids, positions: ids.map((_, i) => i), segments: ids.map(() => 1) };
const logitsOf = async (llama: Llama): Promise<Float32Array> => (await logits(llama, batch).data()) as Float32Array;

beforeAll(() => selectBackend());

/** Loads a model directory that `mergeAdapter` wrote. */
async function merge(source: WeightSource, adapter: LoraAdapter, name: string) {
  await mergeAdapter(source, adapter, noTokenizer, `${directory}/${name}`);
  const merged = await openModel(`${directory}/${name}`);
  return loadModel(merged, { dtype: 'f32' }).finally(() => merged.close());
}

describe('a merged model', () => {
  it('computes what base and adapter compute, to the precision of bf16', async () => {
    const source = await openModel(goldenPath('model/base'));
    const adapter = await loadPeft(source.config, goldenPath('model/adapter'));
    const model = await loadModel(source, { dtype: 'f32' });
    const merged = await merge(source, adapter, 'untied');
    const [base, tuned, actual] = [await logitsOf({ model }), await logitsOf({ model, adapter }), await logitsOf({ model: merged })];
    expect(relativeError(base, tuned)).toBeGreaterThan(0.1);
    expect(relativeError(actual, tuned)).toBeLessThan(0.015);
    await source.close();
  });

  it('has a head of its own when the head of tied embeddings was adapted', async () => {
    const file = await openModel(goldenPath('model/base'));
    const source: WeightSource = {
      config: { ...file.config, tiedEmbeddings: true },
      names: () => file.names().filter((name) => name !== 'lm_head.weight'),
      shape: (name) => file.shape(name), read: (name) => file.read(name), close: () => file.close(),
    };
    const model = await loadModel(source, { dtype: 'f32' });
    const drawn = LoraAdapter.create(source.config, { rank: 4, alpha: 8, dropout: 0, targetModules: ['lm_head'] }, 1);
    const values = new Map([...(await drawn.values())].map(([name, { shape, values }]) => [name, { shape, values: values.map((value, i) => value + 0.1 * Math.sin(i)) }]));
    const adapter = LoraAdapter.fromTensors(source.config, drawn.options, values);
    const merged = await merge(source, adapter, 'tied');
    expect(merged.config.tiedEmbeddings).toBe(false);
    const [base, tuned, actual] = [await logitsOf({ model }), await logitsOf({ model, adapter }), await logitsOf({ model: merged })];
    expect(relativeError(base, tuned)).toBeGreaterThan(0.1);
    expect(relativeError(actual, tuned)).toBeLessThan(0.015);
    await source.close();
  });
});

describe('an adapter', () => {
  it('is drawn by seed and name: A uniform within 1/√in, B zero, whatever else is targeted', async () => {
    const { config } = await loadSmallModel({ dtype: 'f32' });
    const draw = (seed: number, targetModules: string[]) => LoraAdapter.create(config, { rank: 8, alpha: 8, dropout: 0, targetModules }, seed).values();
    const [few, all, other] = [await draw(1, ['v_proj']), await draw(1, ['q_proj', 'v_proj']), await draw(2, ['v_proj'])];
    const name = 'base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight';
    const a = few.get(name)!.values;
    expect(all.get(name)!.values).toEqual(a);
    expect(other.get(name)!.values).not.toEqual(a);
    expect(Math.max(...a)).toBeLessThan(1 / 8);
    expect(Math.max(...a)).toBeGreaterThan(0.97 / 8);
    expect(Math.min(...a)).toBeLessThan(-0.97 / 8);
    expect(Math.abs(a.reduce((sum, value) => sum + value, 0) / a.length)).toBeLessThan(0.01);
    expect(few.get(name.replace('lora_A', 'lora_B'))!.values.every((value) => value === 0)).toBe(true);
  });

  it('lists every mistake in its options', async () => {
    const source = await openModel(goldenPath('model/base'));
    const create = () => LoraAdapter.create(source.config, { rank: 64, alpha: 8, dropout: 0, targetModules: ['q_prj', 'k_proj'] }, 1);
    expect(create).toThrow(/targetModules\[0\]: unknown module 'q_prj'; this model has: q_proj, .*lm_head\nlora.rank: expected less than 32, the smaller side of k_proj \[32×64\], got 64/);
    await source.close();
  });

  it('is refused by a model that it does not fit', async () => {
    const source = await openModel(goldenPath('model/base'));
    await expect(loadPeft({ ...source.config, layers: 1 }, goldenPath('model/adapter'))).rejects.toThrow(/layers\.1\.self_attn\.q_proj\.lora_A\.weight: expected no such tensor/);
    await source.close();
  });
});
