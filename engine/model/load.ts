import { keep, tensor1d, type Tensor1D } from '@tensorflow/tfjs-core';
import type { LlamaConfig } from '../formats/llama-config.js';
import type { WeightSource } from '../formats/weight-source.js';
import { disposeWeight, freezeWeight, keepDequantized, type BaseDtype, type FrozenWeight } from '../tensor/frozen-weight.js';
import { weightUploader, type WeightUploader } from '../tensor/weight-upload.js';
import { blockModules, modulePath, moduleShape, type BlockModule } from '../formats/linear-modules.js';

/** One transformer block, frozen. */
export interface LlamaBlock {
  inputNorm: Tensor1D;
  postAttentionNorm: Tensor1D;
  linear: Record<BlockModule, FrozenWeight>;
  /** [out], of the linear layers that have one. */
  biases?: Partial<Record<BlockModule, Tensor1D>>;
  /** [headDim] each, of models that normalise queries and keys. */
  qkNorm?: { query: Tensor1D; key: Tensor1D };
}

/**
 * A frozen LLaMA on the current backend. The linear layers of the blocks are stored as `base` says. Embedding, head and norms
 * are not quantised, as bitsandbytes leaves them: float32, or rounded to bfloat16 when the base is bf16.
 */
export interface LlamaModel {
  config: LlamaConfig;
  base: BaseDtype;
  /** [vocab, hidden]. */
  embedding: FrozenWeight;
  blocks: LlamaBlock[];
  norm: Tensor1D;
  /** [vocab, hidden]; the embedding itself when they are tied. */
  head: FrozenWeight;
  /** Of the whole model, a tied head counted once. */
  parameters: number;
}

export interface LoadOptions {
  /** Keep float32 copies of the quantised matrices, so that no product has to dequantise. The numbers are the same. @default false */
  resident?: boolean;
  /** Called after each tensor. */
  onTensor?: (done: number, total: number) => void | Promise<void>;
}

/** Reads, quantises and uploads a model, tensor by tensor; a backend that quantises by itself is given the file's own bytes. */
export async function loadModel(source: WeightSource, base: BaseDtype, { resident = false, onTensor }: LoadOptions = {}): Promise<LlamaModel> {
  const { config } = source;
  const total = source.names().length;
  let done = 0;
  let parameters = 0;
  const count = async (values: number): Promise<void> => {
    parameters += values;
    await onTensor?.(++done, total);
  };
  const counting: WeightReader = {
    config,
    read: async (name) => {
      const values = await source.read(name);
      await count(values.length);
      return values;
    },
    stored: (name) => source.stored?.(name),
  };
  const uploader = weightUploader();
  const countingUploader: Uploading = uploader && {
    freeze: async (values, shape, stored) => {
      const weight = await uploader.freeze(values, shape, stored);
      await count(values.count);
      return weight;
    },
  };
  try {
    const model = await loadFrame(counting, base, countingUploader);
    for (let layer = 0; layer < config.layers; layer++) model.blocks.push(await loadBlock(counting, layer, base, { resident }, countingUploader));
    uploader?.check();
    return { ...model, parameters };
  } finally {
    uploader?.dispose();
  }
}

/** What reading a part of a model takes. */
export type WeightReader = Pick<WeightSource, 'config' | 'read' | 'stored'>;
/** The backend's way of its own to store a matrix, where it has one. */
type Uploading = Pick<WeightUploader, 'freeze'> | undefined;

/** A model without its blocks and their parameters. */
export async function loadFrame(source: WeightReader, base: BaseDtype, uploader?: Uploading): Promise<LlamaModel> {
  const { config } = source;
  const plain: BaseDtype = base.dtype === 'bf16' ? base : { dtype: 'f32' };
  const embedding = await frozen(source, 'model.embed_tokens.weight', [config.vocabSize, config.hiddenSize], plain, uploader);
  const norm = keep(tensor1d(await source.read('model.norm.weight')));
  const head = config.tiedEmbeddings ? embedding : await frozen(source, 'lm_head.weight', moduleShape(config, 'lm_head'), plain, uploader);
  return { config, base, embedding, blocks: [], norm, head, parameters: 0 };
}

/** One block of a model. */
export async function loadBlock(
  source: WeightReader,
  layer: number,
  base: BaseDtype,
  { resident = false }: Pick<LoadOptions, 'resident'> = {},
  uploader?: Uploading,
): Promise<LlamaBlock> {
  const { config } = source;
  const vector = async (name: string): Promise<Tensor1D> => keep(tensor1d(await source.read(name)));
  const norm = (name: string): Promise<Tensor1D> => vector(`model.layers.${layer}.${name}.weight`);
  const linear = {} as Record<BlockModule, FrozenWeight>;
  const load = async (name: BlockModule): Promise<void> => {
    linear[name] = await frozen(source, `${modulePath(layer, name)}.weight`, moduleShape(config, name), base, uploader);
    if (resident) keepDequantized(linear[name]);
  };
  // Together they keep the disk and the device busy; by way of the host's memory, one at a time is enough of it.
  if (uploader) await allSettled(blockModules.map(load));
  else for (const name of blockModules) await load(name);
  const biases: LlamaBlock['biases'] = {};
  for (const name of config.biases ?? []) biases[name] = await vector(`${modulePath(layer, name)}.bias`);
  return {
    inputNorm: await norm('input_layernorm'),
    postAttentionNorm: await norm('post_attention_layernorm'),
    linear,
    biases,
    qkNorm: config.qkNorm ? { query: await norm('self_attn.q_norm'), key: await norm('self_attn.k_norm') } : undefined,
  };
}

/** A matrix, stored the way `base` says. */
async function frozen(source: WeightReader, name: string, shape: [number, number], base: BaseDtype, uploader: Uploading): Promise<FrozenWeight> {
  const stored = uploader && source.stored?.(name);
  return stored ? uploader.freeze(stored, shape, base) : freezeWeight(await source.read(name), shape, base);
}

/** Waits for all, also when one fails, as those under way go on using their memory; then throws what the first threw. */
async function allSettled(promises: Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(promises)) if (result.status === 'rejected') throw result.reason;
}

/** A frozen linear layer by its path. */
export function linearWeight(model: LlamaModel, path: string): FrozenWeight {
  const { layer, module } = placeOf(path);
  return layer === undefined ? model.head : model.blocks[layer].linear[module];
}

/** The bias of a linear layer that has one. */
export function linearBias(model: LlamaModel, path: string): Tensor1D {
  const { layer, module } = placeOf(path);
  return model.blocks[layer!].biases![module]!;
}

function placeOf(path: string): { layer: number | undefined; module: BlockModule } {
  const [, layer, module] = /\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)$/.exec(path) ?? [];
  return { layer: layer === undefined ? undefined : Number(layer), module: module as BlockModule };
}

export function disposeModel({ embedding, blocks, norm, head }: LlamaModel): void {
  [embedding, ...(head === embedding ? [] : [head])].forEach(disposeWeight);
  norm.dispose();
  blocks.forEach(disposeBlock);
}

export function disposeBlock({ inputNorm, postAttentionNorm, linear, biases = {}, qkNorm }: LlamaBlock): void {
  Object.values(linear).forEach(disposeWeight);
  for (const vector of [inputNorm, postAttentionNorm, ...Object.values(biases), ...(qkNorm ? [qkNorm.query, qkNorm.key] : [])]) vector.dispose();
}
