import { beforeAll, describe, expect, it } from 'vitest';
import { argMax, memory, slice } from '@tensorflow/tfjs-core';
import type { Tokenizer } from '../../engine/formats/tokenizer.js';
import { generate, type GenerateOptions } from '../../engine/model/generate.js';
import { loadPeft } from '../../engine/model/peft.js';
import { LoraAdapter } from '../../engine/model/adapter.js';
import { logits, type Llama } from '../../engine/model/llama.js';
import { adaptedModel } from '../../engine/model/trained-parts.js';
import { selectBackend } from '../../engine/tensor/backends.js';
import { goldenPath, readGolden } from '../kit/golden.js';
import { loadSmallModel, smallLora } from '../kit/small-model.js';

/** A token is written as its number. */
const numbers = {
  decode: async (ids: ArrayLike<number>) => Array.from(ids).join(' '),
  decodeBatch: async (lists: ArrayLike<number>[]) => lists.map((ids) => Array.from(ids).join(' ')),
} as Tokenizer;

let llama: Llama;
let golden: Awaited<ReturnType<typeof readGolden>>;
let prompts: number[][];

beforeAll(async () => {
  await selectBackend();
  const model = await loadSmallModel({ dtype: 'f32' });
  llama = { model, adapter: await loadPeft(model.config, goldenPath('model/adapter')) };
  golden = await readGolden('model/expected.safetensors');
  const ids = Array.from(golden('input_ids').data);
  prompts = [ids.slice(0, 13), ids.slice(13, 22)];
});

const run = (options: Partial<GenerateOptions> = {}, inputs = prompts) => generate(llama, numbers, inputs, { maxNewTokens: 12, stopIds: [], ...options });

describe('generate', () => {
  it.each(['base', 'adapter'])('continues prompts of different lengths as transformers continues each alone (%s)', async (kind) => {
    const { model, adapter } = llama;
    const answers = await generate({ model, adapter: kind === 'base' ? undefined : adapter }, numbers, prompts, { maxNewTokens: 12, stopIds: [] });
    expect(answers.map(({ ids }) => ids)).toEqual([0, 1].map((row) => Array.from(golden(`greedy_${kind}_${row}`).data)));
  });

  it('sees what an adapter trains beside low-rank branches: the answer is that of the whole model read anew for each token', async () => {
    const { model } = llama;
    const options = smallLora({ targetModules: ['q_proj', 'down_proj', 'k_proj'], useDora: true, modulesToSave: ['embed_tokens', 'lm_head'] });
    const drawn = LoraAdapter.create(model.config, options, 1, model);
    const values = new Map([...(await drawn.values())].map(([name, tensor]) => [name, { ...tensor, values: tensor.values.map((value, i) => value + 0.1 * Math.sin(i)) }]));
    const adapter = LoraAdapter.fromTensors(model.config, options, values);
    const tuned: Llama = { model: adaptedModel(model, adapter), adapter };
    const [answer] = await generate(tuned, numbers, [prompts[0]], { maxNewTokens: 8, stopIds: [] });
    const ids = [...prompts[0]];
    for (let step = 0; step < 8; step++) {
      const inputIds = Int32Array.from(ids);
      const scores = logits(tuned, { shape: [1, ids.length], inputIds, positions: inputIds.map((_, i) => i), segments: inputIds.map(() => 1) });
      const [next] = (await argMax(slice(scores, [ids.length - 1, 0], [1, -1]), 1).data()) as Int32Array;
      ids.push(next);
    }
    expect(answer.ids).toEqual(ids.slice(prompts[0].length));
    const [plain] = await generate({ model }, numbers, [prompts[0]], { maxNewTokens: 8, stopIds: [] });
    expect(answer.ids).not.toEqual(plain.ids);
  });

  it('goes on the same way when the recent part of the cache is joined to the rest', async () => {
    const together = await run({ maxNewTokens: 40 });
    const [alone] = await run({ maxNewTokens: 40 }, [prompts[1]]);
    expect(together[1].ids).toHaveLength(40);
    expect(together[1].ids).toEqual(alone.ids);
  });

  it('ends a row before a stop token and lets the others go on', async () => {
    const [long, short] = await run();
    const stop = long.ids[4];
    const [stopped, other] = await run({ stopIds: [stop] });
    expect(stopped).toEqual({ ids: long.ids.slice(0, long.ids.indexOf(stop)), text: long.ids.slice(0, long.ids.indexOf(stop)).join(' '), stopped: true });
    expect(other.ids).toEqual(short.ids.includes(stop) ? short.ids.slice(0, short.ids.indexOf(stop)) : short.ids);
  });

  it('cuts the text before a stop text', async () => {
    const [plain] = await run();
    const stop = `${plain.ids[2]} ${plain.ids[3]}`;
    const [cut] = await run({ stopStrings: [stop] });
    expect(cut.stopped).toBe(true);
    expect(cut.text).toBe(plain.text.slice(0, plain.text.indexOf(stop)));
  });

  it('stops at the end of the context', async () => {
    const [answer] = await run({ maxNewTokens: 1000 }, [prompts[0]]);
    expect(answer.ids).toHaveLength(llama.model.config.contextLength - prompts[0].length);
    expect(answer.stopped).toBe(false);
  });

  it('draws by seed and row, whatever else is in the batch', async () => {
    const sampling = { temperature: 1.5, topP: 0.9, topK: 50, seed: 7 };
    const together = await run({ sampling });
    const [alone] = await run({ sampling }, [prompts[0]]);
    expect(alone.ids).toEqual(together[0].ids);
    expect((await run({ sampling })).map(({ ids }) => ids)).toEqual(together.map(({ ids }) => ids));
    expect((await run({ sampling: { ...sampling, seed: 8 } }))[0].ids).not.toEqual(together[0].ids);
  });

  it('keeps no tensor', async () => {
    await run();
    const before = memory().numTensors;
    await run({ maxNewTokens: 40, stopIds: [5, 6, 7, 8] });
    expect(memory().numTensors).toBe(before);
  });

  it('refuses an empty prompt and one that fills the context', async () => {
    await expect(run({}, [[3], []])).rejects.toThrow('prompts[1]: expected at least one token, got none');
    await expect(run({}, [Array(64).fill(3)])).rejects.toThrow("prompts[0]: expected fewer than 64 tokens, the model's context, got 64");
  });
});
