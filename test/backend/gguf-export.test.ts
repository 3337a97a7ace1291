import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { writeGgufModel } from '../../engine/formats/gguf-write-model.js';
import type { LlamaConfig } from '../../engine/formats/llama-config.js';
import { openModel } from '../../engine/formats/open-model.js';
import { openTokenizer } from '../../engine/formats/open-tokenizer.js';
import type { WeightSource } from '../../engine/formats/weight-source.js';
import { LoraAdapter, type LoraOptions } from '../../engine/model/adapter.js';
import { ggufAdapterProblems, writeGgufAdapter } from '../../engine/model/gguf-adapter.js';
import { selectBackend } from '../../engine/tensor/backends.js';
import { checkParity, compareWithProbabilities, engineLogits, type Question } from '../../workers/gguf-parity.js';
import { openLlamaCpp, type LlamaCppModel } from '../../workers/llama-cpp.js';
import { goldenPath } from '../kit/golden.js';
import { describeWithLlamaCpp } from '../kit/llama-cpp.js';
import { fetchTestModel } from '../kit/model.js';
import { goldenTokenizer, randomModel } from '../kit/random-model.js';
import { temporaryDirectory } from '../kit/temporary.js';

const directory = temporaryDirectory();
const still = () => Promise.resolve();
const prompts = [[1, 70, 90, 110, 300, 12, 450], [1, 333, 65, 66, 67]];

beforeAll(() => selectBackend());

/** Every family, with what only it has. */
const families: [string, Partial<LlamaConfig>][] = [
  ['llama', {}],
  ['llama with tied embeddings and biases', { tiedEmbeddings: true, biases: ['q_proj', 'k_proj', 'v_proj', 'o_proj'] }],
  ['llama with rope scaling of LLaMA 3', { ropeTheta: 500_000, ropeScaling: { type: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalContextLength: 32 } }],
  ['llama with linear rope scaling', { ropeScaling: { type: 'linear', factor: 4, originalContextLength: 64 } }],
  ['mistral', { architecture: 'mistral', slidingWindow: { size: 128 } }],
  ['qwen2', { architecture: 'qwen2', biases: ['q_proj', 'k_proj', 'v_proj'], tiedEmbeddings: true }],
  ['qwen3 with heads of their own width', { architecture: 'qwen3', qkNorm: true, headDim: 32 }],
  ['smollm3', { architecture: 'smollm3', layers: 4, unrotatedLayers: [3], tiedEmbeddings: true }],
];

await describeWithLlamaCpp('a GGUF in llama.cpp', (llamaCpp) => {
  async function inLlamaCpp<T>(path: string, vocabSize: number, work: (model: LlamaCppModel) => Promise<T>, lora?: string): Promise<T> {
    const model = await openLlamaCpp(llamaCpp, path, { vocabSize, contextSize: 128, lora });
    return work(model).finally(() => model.dispose());
  }
  /** How far llama.cpp is from the engine on its own greedy answers. */
  const parity = (source: WeightSource, path: string, adapter?: LoraAdapter, lora?: string) =>
    inLlamaCpp(path, source.config.vocabSize, async (model) => {
      const questions: Question[] = [];
      for (const promptIds of prompts) questions.push({ promptIds, text: '', answer: await model.greedy(promptIds, 8, []) });
      const check = await checkParity(model, 'f16', questions, await engineLogits(source, adapter, questions, still), undefined);
      if (check.state === 'not checked') throw new Error(check.reason);
      return check;
    }, lora);

  it.each(families)('computes what the engine computes: %s', async (name, change) => {
    const source = randomModel(change);
    const path = join(directory, `${name}.gguf`);
    await writeGgufModel(path, { source, tokenizer: await goldenTokenizer(directory, 'bytelevel'), name }, 'f16');
    const { kl, agreement, tokens } = await parity(source, path);
    expect(tokens).toBe(16);
    expect(kl).toBeLessThan(1e-4);
    expect(agreement).toBeGreaterThan(0.9);
  });

  it('is told from a model that is another one', async () => {
    const path = join(directory, 'one.gguf');
    await writeGgufModel(path, { source: randomModel(), tokenizer: await goldenTokenizer(directory, 'bytelevel'), name: 'one' }, 'f16');
    const other = randomModel({ ropeTheta: 500 });
    expect((await parity(other, path)).kl).toBeGreaterThan(0.01);
  });

  const lora = (options: Partial<LoraOptions> = {}): LoraOptions =>
    ({ rank: 4, alpha: 8, dropout: 0, targetModules: ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj', 'lm_head'], ...options });
  async function trained(source: WeightSource, options: LoraOptions, size = 0.2): Promise<LoraAdapter> {
    const drawn = LoraAdapter.create(source.config, options, 1);
    const values = new Map([...(await drawn.values())].map(([name, { shape, values }]) => [name, { shape, values: values.map((value, i) => value + size * Math.sin(i * 1.7)) }]));
    return LoraAdapter.fromTensors(source.config, options, values);
  }

  it.each([['plain', {}], ['rank-stabilised, with patterns', { useRsLora: true, rankPattern: { v_proj: 2 }, alphaPattern: { down_proj: 3 } }]])('takes an adapter on its base: %s', async (name, options) => {
    const source = randomModel();
    const adapter = await trained(source, lora(options));
    const [base, file] = [join(directory, 'base.gguf'), join(directory, `${name}-adapter.gguf`)];
    await writeGgufModel(base, { source, tokenizer: await goldenTokenizer(directory, 'bytelevel'), name: 'base' }, 'f16');
    await writeGgufAdapter(file, source.config, adapter, 'adapter');
    expect((await parity(source, base, adapter, file)).kl).toBeLessThan(1e-4);
    expect((await parity(source, base, adapter)).kl).toBeGreaterThan(0.05); // without the file it is another model
  });

  it('is not given an adapter that it cannot hold', async () => {
    const tied = randomModel({ tiedEmbeddings: true });
    expect(ggufAdapterProblems(tied.config, await trained(tied, lora()))).toEqual(['a branch on the head of tied embeddings']);
    expect(ggufAdapterProblems(tied.config, await trained(tied, lora({ targetModules: ['q_proj'] })))).toEqual([]);
  });

  it.each(['bytelevel', 'sentencepiece'] as const)('cuts texts into the same tokens: %s', async (kind) => {
    const tokenizer = await goldenTokenizer(directory, kind);
    const path = join(directory, `${kind}.gguf`);
    await writeGgufModel(path, { source: randomModel(), tokenizer, name: kind }, 'f16');
    // llama.cpp takes tokens of some texts for special ones whatever the file says; the SentencePiece vocabulary here has two as plain pieces.
    const misread = kind === 'sentencepiece' ? /<\|(endoftext|im_end)\|>/ : /^$/;
    const whole = JSON.parse(readFileSync(goldenPath('tokenizer-corpus.json'), 'utf8')) as string[];
    const corpus = whole.filter((text) => text !== '' && !text.includes('\u0000') && !misread.test(text));
    expect(corpus.length).toBeGreaterThan(500);
    const expected = await tokenizer.encodeBatch(corpus);
    const different = await inLlamaCpp(path, 640, (model) => Promise.resolve(corpus.filter((text, i) => model.tokenize(text).join() !== expected[i].join())));
    expect(different).toEqual([]);
    const own = await openTokenizer(path);
    expect(await own.encodeBatch(corpus)).toEqual(expected);
    expect([own.eosTokenId, own.bosTokenId, own.addsBos, own.chatTemplate]).toEqual([tokenizer.eosTokenId, tokenizer.bosTokenId, tokenizer.addsBos, tokenizer.chatTemplate]);
  });

  it('keeps SmolLM2 as well as its type allows, and an adapter on it', { timeout: 300_000 }, async () => {
    const model = await fetchTestModel();
    const source = await openModel(model);
    const tokenizer = await openTokenizer(model);
    const text = 'An optical mouse is a hand-held device that';
    const promptIds = await tokenizer.encode(text);
    const kl: Record<string, number> = {};
    let questions: Question[] | undefined;
    let logits: Float32Array[] | undefined;
    for (const type of ['f16', 'q8_0', 'q4_k_m'] as const) {
      const path = join(directory, `smollm2-${type}.gguf`);
      await writeGgufModel(path, { source, tokenizer, name: 'smollm2' }, type);
      kl[type] = await inLlamaCpp(path, source.config.vocabSize, async (llama) => {
        questions ??= [{ text, promptIds, answer: await llama.greedy(promptIds, 12, []) }];
        logits ??= await engineLogits(source, undefined, questions, still);
        const check = await checkParity(llama, type, questions, logits, tokenizer.bosTokenId);
        expect(check).toMatchObject({ state: 'agrees', prompts: 1, sameTokens: 1, tokens: 12 });
        return (check as { kl: number }).kl;
      });
    }
    const adapter = await trained(source, lora({ targetModules: ['q_proj', 'v_proj', 'down_proj'] }), 0.05);
    const file = join(directory, 'smollm2-adapter.gguf');
    await writeGgufAdapter(file, source.config, adapter, 'adapter');
    const base = join(directory, 'smollm2-f16.gguf');
    expect((await parity(source, base, adapter, file)).kl).toBeLessThan(1e-4);
    expect((await parity(source, base, adapter)).kl).toBeGreaterThan(0.01);
    await source.close();
    expect(kl.f16).toBeLessThan(1e-4);
    expect(kl.q8_0).toBeLessThan(0.02);
    expect(kl.q4_k_m).toBeLessThan(0.3);
    expect(kl.f16).toBeLessThan(kl.q8_0);
    expect(kl.q8_0).toBeLessThan(kl.q4_k_m);
  });
});

describe('comparing with probabilities', () => {
  it('gives the divergence from the softmax of logits, and minds no zero', () => {
    const logits = Float32Array.of(0, Math.log(3));
    expect(compareWithProbabilities(logits, Float32Array.of(0.25, 0.75)).kl).toBeCloseTo(0, 6);
    expect(compareWithProbabilities(logits, Float32Array.of(0.5, 0.5))).toMatchObject({ kl: expect.closeTo(0.25 * Math.log(0.5) + 0.75 * Math.log(1.5), 6) });
    expect(compareWithProbabilities(logits, Float32Array.of(1, 0))).toMatchObject({ sameBest: false, kl: expect.closeTo(0.25 * Math.log(0.25) + 0.75 * Math.log(0.75 / 1e-40), 3) });
  });
});
