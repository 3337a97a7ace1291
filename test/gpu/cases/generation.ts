import { keep, setBackend, tensor, tidy, type Tensor1D } from '@tensorflow/tfjs-core';
import { modelShapes, randomModel } from '../../../bench/random-model.js';
import type { LlamaConfig } from '../../../engine/formats/llama-config.js';
import type { Tokenizer } from '../../../engine/formats/tokenizer.js';
import { LoraAdapter } from '../../../engine/model/adapter.js';
import { generate, type GenerateOptions } from '../../../engine/model/generate.js';
import { logits, type Llama } from '../../../engine/model/llama.js';
import { disposeModel } from '../../../engine/model/load.js';
import { blockModules, moduleShape, targetModules } from '../../../engine/formats/linear-modules.js';
import type { BaseDtype } from '../../../engine/tensor/frozen-weight.js';
import { Random } from './compare.js';

export interface GenerationCase {
  name: string;
  base: BaseDtype;
  config?: Partial<LlamaConfig>;
  /** Tokens of each prompt. */
  prompts: number[];
  targets?: readonly string[];
  /** Of the adapter. @default 4 */
  rank?: number;
  steps?: number;
}

const lengths = (rows: number): number[] => Array.from({ length: rows }, (_, row) => 3 + ((row * 7) % 19));

/** Shapes that take every path of a decode step: kinds of matrices, numbers of rows, grouped heads, windows, biases. */
export const generationCases: GenerationCase[] = [
  { name: 'int8, one row after a long prompt', base: { dtype: 'int8' }, prompts: [150], steps: 40 },
  { name: 'int8, 13 rows', base: { dtype: 'int8' }, prompts: lengths(13) },
  { name: 'int8, 30 rows', base: { dtype: 'int8' }, prompts: lengths(30), steps: 6 },
  { name: 'int8, 66 rows', base: { dtype: 'int8' }, prompts: lengths(66), steps: 3 },
  { name: 'int8, 66 rows after long prompts, a block to a row and head', base: { dtype: 'int8' }, config: { kvHeads: 4 }, prompts: lengths(66).map((length) => 100 + 2 * length), steps: 2 },
  { name: 'int8, 33 rows, biases, rank 20', base: { dtype: 'int8' }, config: { biases: ['q_proj', 'v_proj', 'o_proj', 'gate_proj', 'down_proj'] }, prompts: lengths(33), rank: 20, steps: 3 },
  { name: 'int8, 40 rows, tiles that several blocks share', base: { dtype: 'int8' }, config: { hiddenSize: 1040, intermediateSize: 2064, layers: 1 }, prompts: lengths(40).map((length) => Math.min(length, 6)), steps: 3 },
  { name: 'int8, 24 rows that end one after the other, so that the others move together', base: { dtype: 'int8' }, config: { contextLength: 24 }, prompts: lengths(24), steps: 20 },
  { name: 'nf4, 20 rows', base: { dtype: 'nf4', doubleQuant: true }, prompts: lengths(20), steps: 6 },
  { name: 'nf4 without double quantisation, 2 rows, branches on q and v alone', base: { dtype: 'nf4', doubleQuant: false }, prompts: [4, 11], targets: ['q_proj', 'v_proj'] },
  { name: 'bf16, 5 rows, no adapter', base: { dtype: 'bf16' }, prompts: lengths(5), targets: [] },
  { name: 'bf16, 34 rows, tied embeddings', base: { dtype: 'bf16' }, config: { tiedEmbeddings: true }, prompts: lengths(34), steps: 4 },
  { name: 'int8, a sliding window in one layer of three, one not rotated', base: { dtype: 'int8' }, config: { slidingWindow: { size: 7, layers: [1] }, unrotatedLayers: [2] }, prompts: lengths(3) },
  { name: 'int8, biases and normalised queries and keys', base: { dtype: 'int8' }, config: { biases: ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'down_proj'], qkNorm: true }, prompts: lengths(4) },
  ...[80, 100, 128].map((headDim): GenerationCase => ({
    name: `int8, head size ${headDim}, 5 rows`, base: { dtype: 'int8' }, config: { headDim, heads: 4, kvHeads: headDim === 80 ? 1 : headDim === 128 ? 4 : 2 }, prompts: lengths(5), steps: 6,
  })),
];

/** Ids only. */
export const noTokenizer = { decode: () => Promise.resolve(''), decodeBatch: (rows: number[][]) => Promise.resolve(rows.map(() => '')) } as unknown as Tokenizer;

function build({ base, config = {}, targets = targetModules, rank = 4 }: GenerationCase, seed: number): Llama {
  const shape = { ...modelShapes.tiny, ...config };
  const random = new Random(seed);
  const model = randomModel(shape, base);
  const vector = (size: number, around: number): Tensor1D => keep(tensor(random.values(size, 0.5).map((value) => value + around), [size])) as Tensor1D;
  model.blocks.forEach((block) => {
    if (shape.biases) block.biases = Object.fromEntries(blockModules.filter((name) => shape.biases!.includes(name)).map((name) => [name, vector(moduleShape(shape, name)[0], 0)]));
    if (shape.qkNorm) block.qkNorm = { query: vector(shape.headDim, 1), key: vector(shape.headDim, 1) };
  });
  if (targets.length === 0) return { model };
  const adapter = LoraAdapter.create(shape, { rank, alpha: rank, dropout: 0.1, targetModules: targets }, seed);
  for (const { variable } of adapter.parameters()) tidy(() => variable.assign(random.tensor(variable.shape as number[], 0.2)));
  return { model, adapter };
}

const promptsOf = ({ prompts }: GenerationCase, seed: number, vocabulary: number): number[][] =>
  prompts.map((length, row) => Array.from(new Random(seed + 1 + row).values(length), (value) => Math.floor(((value + 1) / 2) * vocabulary)));

async function run(one: GenerationCase, seed: number, options: Partial<GenerateOptions>, promptSeed = seed): Promise<number[][]> {
  const llama = build(one, seed);
  const answers = await generate(llama, noTokenizer, promptsOf(one, promptSeed, llama.model.config.vocabSize), { maxNewTokens: one.steps ?? 12, stopIds: [], ...options });
  llama.adapter?.dispose();
  disposeModel(llama.model);
  return answers.map(({ ids }) => ids);
}

/**
 * How far the tokens that `cuda` writes are from the likeliest by the `cpu` backend's reckoning over the same text: the largest gap
 * between the two logits, in standard deviations of a row's logits. Infinity for answers of the wrong length.
 */
export async function worstGap(one: GenerationCase, seed: number): Promise<number> {
  await setBackend('cuda');
  const answers = await run(one, seed, {});
  await setBackend('cpu');
  const llama = build(one, seed);
  const { vocabSize, contextLength } = llama.model.config;
  let worst = 0;
  promptsOf(one, seed, vocabSize).forEach((prompt, row) => {
    const answer = answers[row];
    if (answer.length !== Math.min(one.steps ?? 12, contextLength - prompt.length)) worst = Infinity;
    const ids = [...prompt, ...answer];
    const batch = {
      shape: [1, ids.length] as [number, number], inputIds: Int32Array.from(ids), positions: Int32Array.from(ids, (_, i) => i), segments: new Int32Array(ids.length).fill(1),
    };
    const scores = tidy(() => logits(llama, batch).dataSync<'float32'>());
    answer.forEach((token, i) => {
      const at = (prompt.length + i - 1) * vocabSize;
      const own = scores.subarray(at, at + vocabSize);
      const spread = Math.sqrt(own.reduce((sum, value) => sum + value * value, 0) / vocabSize);
      worst = Math.max(worst, (Math.max(...own) - own[token]) / spread);
    });
  });
  llama.adapter?.dispose();
  disposeModel(llama.model);
  return Number.isNaN(worst) ? Infinity : worst;
}

/** The same answers twice on `cuda`, and drawn ones by their seed. */
export async function isRepeatable(one: GenerationCase, seed: number): Promise<boolean> {
  await setBackend('cuda');
  const sampling = { temperature: 0.8, topP: 0.9, topK: 40, seed };
  const runs = [await run(one, seed, {}), await run(one, seed, {}), await run(one, seed, { sampling }), await run(one, seed, { sampling })];
  return JSON.stringify(runs[0]) === JSON.stringify(runs[1]) && JSON.stringify(runs[2]) === JSON.stringify(runs[3]) && JSON.stringify(runs[0]) !== JSON.stringify(runs[2]);
}

/** Batches of one shape, one after the other on `cuda`, the later of which replay the recordings of the first: each gets the answers that it gets by itself. */
export async function goesOn(one: GenerationCase, seed: number): Promise<boolean> {
  await setBackend('cuda');
  const llama = build(one, seed), seeds = [seed, seed + 100, seed, seed + 200, seed + 300];
  const together: string[] = [], alone: string[] = [];
  for (const own of seeds) {
    const answers = await generate(llama, noTokenizer, promptsOf(one, own, llama.model.config.vocabSize), { maxNewTokens: one.steps ?? 12, stopIds: [] });
    together.push(JSON.stringify(answers.map(({ ids }) => ids)));
  }
  llama.adapter?.dispose();
  disposeModel(llama.model);
  for (const own of seeds) alone.push(JSON.stringify(await run(one, seed, {}, own)));
  return together.every((answers, i) => answers === alone[i]) && new Set(together).size === seeds.length - 1;
}
