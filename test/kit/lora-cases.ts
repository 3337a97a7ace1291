import { readFile } from 'node:fs/promises';
import type { LoraConfig } from '../../contracts/fine-tune-config.js';
import { readTokenFile } from '../../engine/data/token-file.js';
import { openModel } from '../../engine/formats/open-model.js';
import { readPeftAdapter } from '../../engine/formats/peft-adapter.js';
import type { WeightSource } from '../../engine/formats/weight-source.js';
import { logits, type Llama } from '../../engine/model/llama.js';
import { loadModel, type LlamaModel } from '../../engine/model/load.js';
import { withTrainedParts } from '../../engine/model/trained-parts.js';
import type { BaseDtype } from '../../engine/tensor/frozen-weight.js';
import type { StepLog } from '../../engine/train/history.js';
import { trainAdapter } from '../../engine/train/train.js';
import { goldenPath, readGolden } from './golden.js';
import { smallLora, smallTrain } from './small-model.js';

/** A model as one of the cases of test/golden/lora.py has it. */
export type Base = 'f32' | 'nf4' | 'int8' | 'tied' | 'biased';
/** A run of PEFT. */
export interface Case {
  base: Base;
  /** Of LoRA+. */
  ratio?: number;
  /** Alpha of NEFTune. */
  noise?: number;
  trainable: number;
  total: number;
  loss: number[];
  gradNorm: number[];
}
export const { settings, cases } = JSON.parse(await readFile(goldenPath('lora/expected.json'), 'utf8')) as {
  settings: { learningRate: number; steps: number; batchSize: number; accumulation: number; warmupRatio: number; weightDecay: number; maxGradNorm: number };
  cases: Record<string, Case>;
};
const rows = await readTokenFile(goldenPath('train/rows.safetensors'));
const biases = await readGolden('lora/biases.safetensors');

/** The small model as a case has it: as it is, with its head tied to the embedding, or with biases on q, k, v and o. */
export async function openBase(base: Base): Promise<WeightSource> {
  const source = await openModel(goldenPath('model/base'));
  const own = { shape: (name: string) => source.shape(name), read: (name: string) => source.read(name), close: () => source.close() };
  if (base === 'tied') return { ...own, config: { ...source.config, tiedEmbeddings: true }, names: () => source.names().filter((name) => name !== 'lm_head.weight') };
  if (base !== 'biased') return source;
  const config = { ...source.config, biases: ['q_proj', 'k_proj', 'v_proj', 'o_proj'] as const };
  const names = Array.from({ length: config.layers }, (_, layer) => config.biases.map((module) => `model.layers.${layer}.self_attn.${module}.bias`)).flat();
  return {
    ...own, config, names: () => [...source.names(), ...names],
    shape: (name) => (names.includes(name) ? biases(name).shape : source.shape(name)),
    read: async (name) => (names.includes(name) ? Float32Array.from(biases(name).data) : source.read(name)),
  };
}

export async function loadBase(base: Base): Promise<LlamaModel> {
  const source = await openBase(base);
  const dtype: BaseDtype = base === 'nf4' ? { dtype: 'nf4', doubleQuant: true } : base === 'int8' ? { dtype: 'int8' } : { dtype: 'f32' };
  return loadModel(source, dtype).finally(() => source.close());
}

/** Logits of the first row. */
export async function firstLogits(llama: Llama): Promise<Float32Array> {
  const ids = rows.ids(0);
  const batch = { shape: [1, ids.length] as [number, number], inputIds: ids, positions: ids.map((_, i) => i), segments: ids.map(() => 1) };
  return (await logits({ ...llama, model: withTrainedParts(llama.model, llama.adapter) }, batch).data()) as Float32Array;
}

/** Trains the adapter of a case as PEFT did. */
export async function trainCase(name: string, changes: Parameters<typeof smallTrain>[0] = {}) {
  const { base, ratio, noise } = cases[name];
  const model = await loadBase(base);
  const { config, tensors } = await readPeftAdapter(goldenPath(`lora/${name}`));
  const options = Object.fromEntries(Object.entries(config).filter(([key]) => key !== 'baseModel')) as Partial<LoraConfig>;
  const lora = smallLora({ ...options, loraPlusRatio: ratio });
  const inOrder = () => Array.from({ length: rows.count }, (_unused, row) => row);
  const { adapter, history } = await trainAdapter({ model, lora, train: smallTrain({ ...settings, neftuneNoiseAlpha: noise, ...changes }), trainRows: rows, testRows: rows, initial: tensors, order: inOrder });
  return { model, adapter, steps: history.log_history.filter((entry): entry is StepLog => 'loss' in entry) };
}
