import { access, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fineTuneConfigSchema, type BaseConfig, type MergeConfig } from '../../contracts/fine-tune-config.js';
import { openModel } from '../../engine/formats/open-model.js';
import type { WeightSource } from '../../engine/formats/weight-source.js';
import type { LoraAdapter } from '../../engine/model/adapter.js';
import { dequantizedSource } from '../../engine/model/dequantized-source.js';
import { loadModel } from '../../engine/model/load.js';
import { loadPeft } from '../../engine/model/peft.js';
import { evaluateLoss } from '../../engine/train/evaluate.js';
import { compareLogits, sampleRows } from '../../engine/train/merge-fidelity.js';
import { mergeBetterWay, type MergedModel } from '../../engine/train/merge-ways.js';
import { selectBackend } from '../../engine/tensor/backends.js';
import { dequantize, freezeWeight } from '../../engine/tensor/frozen-weight.js';
import { goldenPath, relativeError } from '../kit/golden.js';
import { temporaryDirectory } from '../kit/temporary.js';
import { randomRows } from '../kit/token-rows.js';

const directory = temporaryDirectory();
const rows = randomRows(12, { vocabulary: 128, longest: 24 });
const nf4: BaseConfig = { dtype: 'nf4', doubleQuant: true };
let source: WeightSource;
let adapter: LoraAdapter;
let count = 0;

beforeAll(async () => {
  await selectBackend();
  source = await openModel(goldenPath('model/base'));
  adapter = await loadPeft(source.config, goldenPath('model/adapter'));
});
afterAll(() => source.close());

const merge = (base: BaseConfig, options: Partial<MergeConfig> = {}): Promise<MergedModel> =>
  mergeBetterWay({
    source, base, adapter, testRows: rows, directory: join(directory, String(count++)), tokenizer: { files: () => Promise.resolve(new Map()) },
    merge: fineTuneConfigSchema.shape.merge.parse({ measureTokens: 10_000, ...options }), onProgress: () => Promise.resolve(),
  });

async function lossOf(path: string): Promise<number> {
  const file = await openModel(path);
  const model = await loadModel(file, { dtype: 'f32' });
  await file.close();
  return (await evaluateLoss({ model }, rows)).loss;
}

describe('merging in two ways', () => {
  it('measures both against the quantised model with its adapter, whole, and keeps the one that its rule names', async () => {
    const { directory: kept, kept: { onto, reason }, measured } = await merge(nf4);
    const { loss, tokens } = await evaluateLoss({ model: await loadModel(source, nf4), adapter }, rows);
    expect(measured!.countedTokens).toBe(tokens);
    expect(measured!.unmergedLoss).toBeCloseTo(loss, 5);
    const [original, dequantized] = measured!.ways;
    expect([original.onto, dequantized.onto]).toEqual(['original', 'dequantized']);
    expect(dequantized.kl).toBeLessThan(1e-3); // rounding to bf16 alone
    expect(dequantized.kl).toBeLessThan(original.kl / 10);
    expect(dequantized.agreement).toBeGreaterThan(original.agreement);
    expect(reason).toMatch(onto === 'dequantized' ? /^it is closer to the unmerged model|^its loss on the test rows is lower/ : /^its loss on the test rows is lower/);
    expect(await lossOf(kept)).toBeCloseTo(measured!.ways.find((way) => way.onto === onto)!.evalLoss, 5);
    expect(await readdir(join(kept, '..'))).toEqual([onto]);
  });

  it('has one way onto a base that is not quantised, which differs from the unmerged model by its rounding', async () => {
    const { measured, kept } = await merge({ dtype: 'f32' });
    expect(kept).toEqual({ onto: 'original', reason: 'the base f32 can be merged in one way' });
    expect(measured!.ways).toHaveLength(1);
    expect(measured!.ways[0].kl).toBeGreaterThan(0);
    expect(measured!.ways[0].kl).toBeLessThan(1e-3);
    const exact = await merge({ dtype: 'f32' }, { dtype: 'f32' });
    expect(exact.measured!.ways[0].kl).toBeLessThan(1e-9);
    expect(exact.measured!.ways[0].agreement).toBe(1);
  });

  it('measures nothing where it shall not, and takes the model\'s own weights', async () => {
    const { directory: kept, measured, kept: { onto } } = await merge(nf4, { measureTokens: 0 });
    expect([onto, measured]).toEqual(['original', undefined]);
    await access(join(kept, 'model.safetensors'));
  });

  it('cuts the weights into shards with an index, which read as the whole', async () => {
    const { directory: kept } = await merge({ dtype: 'f32' }, { maxShardSize: '60KB', dtype: 'f16', measureTokens: 0 });
    const index = JSON.parse(await readFile(join(kept, 'model.safetensors.index.json'), 'utf8')) as { metadata: { total_size: number }; weight_map: Record<string, string> };
    const shards = [...new Set(Object.values(index.weight_map))].sort();
    expect(shards.length).toBeGreaterThan(2);
    expect(shards[0]).toMatch(/^model-00001-of-0000\d\.safetensors$/);
    expect(index.metadata.total_size).toBe(2 * (await loadModel(source, { dtype: 'f32' })).parameters);
    const whole = await merge({ dtype: 'f32' }, { dtype: 'f16', measureTokens: 0 });
    expect(await lossOf(kept)).toBe(await lossOf(whole.directory));
  });
});

describe('a source of dequantised weights', () => {
  it.each([nf4, { dtype: 'int8' } as const])('has the blocks\' matrices as $dtype training sees them, and the rest as it is', async (base) => {
    const dequantized = dequantizedSource(source, base);
    const name = 'model.layers.1.mlp.up_proj.weight';
    const [out, inner] = source.shape(name);
    const seen = dequantize(freezeWeight(await source.read(name), [out, inner], base));
    expect(relativeError(await dequantized.read(name), await seen.data())).toBeLessThan(1e-7);
    for (const same of ['model.embed_tokens.weight', 'model.norm.weight', 'lm_head.weight']) expect(await dequantized.read(same)).toEqual(await source.read(same));
  });
});

describe('comparing distributions', () => {
  it('gives the divergence of the softmaxes, whatever the size of the logits', () => {
    const p = Float32Array.of(1, -2, 0.5, 300);
    const q = Float32Array.of(2, -1, 299, 300.5);
    const softmax = (x: Float32Array) => {
      const weights = Array.from(x, (value) => Math.exp(value - 300));
      const sum = weights.reduce((a, b) => a + b);
      return weights.map((weight) => weight / sum);
    };
    const [a, b] = [softmax(p), softmax(q)];
    const expected = a.reduce((sum, value, i) => (value > 0 ? sum + value * Math.log(value / b[i]) : sum), 0);
    expect(compareLogits(p, q).kl).toBeCloseTo(expected, 10);
    expect(compareLogits(p, q).logSumQ).toBeCloseTo(300.5 + Math.log(1 + Math.exp(-1.5)), 10);
    expect(compareLogits(p, p)).toMatchObject({ kl: 0, sameBest: true });
    expect(compareLogits(p, Float32Array.of(9, 0, 0, 1)).sameBest).toBe(false);
  });

  it('reads whole rows until it has enough tokens, and says when the loss counts none of them', () => {
    const one = sampleRows(rows, 1);
    expect(one.tokens).toBe(rows.length(0));
    expect(sampleRows(rows, rows.length(0) + 1).tokens).toBe(rows.length(0) + rows.length(1));
    const unmasked = { ...rows, mask: (row: number) => new Uint8Array(rows.length(row)) };
    expect(() => sampleRows(unmasked, 100)).toThrow('test rows: expected at least one token that the loss counts, got none');
  });
});
