import { memory, randomNormal, tidy } from '@tensorflow/tfjs-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Tokenizer } from '../../engine/formats/tokenizer.js';
import { LoraAdapter } from '../../engine/model/adapter.js';
import { AdapterRows } from '../../engine/model/adapter-rows.js';
import { generate, type Generated } from '../../engine/model/generate.js';
import { logitsOf, type BranchedModel } from '../../engine/model/llama.js';
import type { LlamaModel } from '../../engine/model/load.js';
import { readPrompts } from '../../engine/model/read-prompts.js';
import { causalAttention } from '../../engine/tensor/causal-attention.js';
import { selectBackend } from '../../engine/tensor/backends.js';
import { relativeError } from '../kit/golden.js';
import { loadSmallModel, smallLora } from '../kit/small-model.js';

const numbers = { decodeBatch: async (lists: ArrayLike<number>[]) => lists.map((ids) => Array.from(ids).join(' ')), decode: async (ids: ArrayLike<number>) => Array.from(ids).join(' ') } as Tokenizer;
const prompts = [[5, 9, 33, 7, 61], [88, 4, 17], [5, 9, 33, 7, 61], [2, 71, 71, 40, 12, 6, 90], [5, 9, 33, 7, 61]];
let model: LlamaModel;
let adapters: LoraAdapter[];

beforeAll(async () => {
  await selectBackend();
  model = await loadSmallModel({ dtype: 'nf4', doubleQuant: true });
  // Ranks, scales and targets differ; every B is far from zero.
  const options = [
    smallLora({ rank: 4 }),
    smallLora({ rank: 2, alpha: 16, targetModules: ['q_proj', 'v_proj'] }),
    smallLora({ rank: 6, useRsLora: true, targetModules: 'all-linear', rankPattern: { down_proj: 3 } }),
  ];
  adapters = options.map((lora, i) => LoraAdapter.create(model.config, lora, i));
  for (const [i, adapter] of adapters.entries()) {
    for (const { name, variable } of adapter.parameters()) if (name.includes('.lora_B.')) tidy(() => variable.assign(randomNormal(variable.shape, 0, 0.2, 'float32', i + 1)));
  }
});
afterAll(() => adapters.forEach((adapter) => adapter.dispose()));

const of = (): (LoraAdapter | undefined)[] => [adapters[0], adapters[1], undefined, adapters[2], adapters[1]];

describe('prompts with an adapter each over one quantised base', () => {
  it('give the logits that each gets with its adapter alone', async () => {
    const scores = async (rows: number[], llama: BranchedModel & { adapter?: LoraAdapter }, mixed?: AdapterRows): Promise<Float32Array> => {
      const logits = tidy(() => {
        const hidden = readPrompts(llama, rows.map((row) => prompts[row]), (_layer, q, k, v, segments, rope) => causalAttention(q, k, v, segments, { rope }), { adapters: mixed });
        return logitsOf(mixed ? { model, adapter: mixed.branches(rows) } : llama, hidden);
      });
      return (await logits.data()) as Float32Array;
    };
    const mixed = new AdapterRows(of());
    const together = await scores([...prompts.keys()], { model }, mixed);
    mixed.dispose();
    for (const [row, adapter] of of().entries()) {
      const alone = await scores([row], { model, adapter });
      expect(relativeError(together.subarray(row * alone.length, (row + 1) * alone.length), alone)).toBeLessThan(1e-5);
    }
  });

  it('are answered as each is with its adapter alone, while rows come to their ends', async () => {
    const options = { maxNewTokens: 10, stopIds: [] };
    const alone: Generated[] = [];
    for (const [row, adapter] of of().entries()) alone.push(...(await generate({ model, adapter }, numbers, [prompts[row]], options)));
    const before = memory().numTensors;
    expect(await generate({ model }, numbers, prompts, { ...options, adapters: of() })).toEqual(alone);
    expect(memory().numTensors).toBe(before);
    expect(new Set(alone.map(({ text }) => text)).size).toBe(5);

    const stop = alone[1].ids[3];
    const cut = await generate({ model }, numbers, prompts, { ...options, stopIds: [stop], adapters: of() });
    cut.forEach(({ ids }, row) => {
      const end = alone[row].ids.indexOf(stop);
      expect(ids).toEqual(end < 0 ? alone[row].ids : alone[row].ids.slice(0, end));
    });
  });

  it('refuses what rows cannot have of their own, and a number of adapters that is not that of the prompts', async () => {
    const dora = LoraAdapter.create(model.config, smallLora({ useDora: true }), 1, model);
    await expect(generate({ model }, numbers, [prompts[0]], { maxNewTokens: 1, adapters: [dora] })).rejects.toThrow('adapters[0]: expected low-rank branches alone, got DoRA; run it by itself');
    dora.dispose();
    await expect(generate({ model }, numbers, prompts, { maxNewTokens: 1, adapters: [adapters[0]] })).rejects.toThrow('adapters: expected one for each of 5 prompts, got 1');
    await expect(generate({ model, adapter: adapters[0] }, numbers, prompts, { maxNewTokens: 1, adapters: of() })).rejects.toThrow('adapters: expected a model without an adapter of its own, got one with');
  });
});
