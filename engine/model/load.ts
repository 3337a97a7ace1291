import { keep, tensor1d, type Tensor1D } from '@tensorflow/tfjs-core';
import type { LlamaConfig } from '../formats/llama-config.js';
import type { WeightSource } from '../formats/weight-source.js';
import { disposeWeight, freezeWeight, type BaseDtype, type FrozenWeight } from '../tensor/frozen-weight.js';
import { blockModules, modulePath, moduleShape, type BlockModule } from './targets.js';

/** One transformer block, frozen. */
export interface LlamaBlock {
  inputNorm: Tensor1D;
  postAttentionNorm: Tensor1D;
  linear: Record<BlockModule, FrozenWeight>;
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

/** Reads, quantises and uploads a model, tensor by tensor. */
export async function loadModel(source: WeightSource, base: BaseDtype, { resident = false, onTensor }: LoadOptions = {}): Promise<LlamaModel> {
  const { config } = source;
  const total = source.names().length;
  let done = 0;
  let parameters = 0;
  const read = async (name: string): Promise<Float32Array> => {
    const values = await source.read(name);
    parameters += values.length;
    await onTensor?.(++done, total);
    return values;
  };
  const vector = async (name: string): Promise<Tensor1D> => keep(tensor1d(await read(name)));
  const plain: BaseDtype = base.dtype === 'bf16' ? base : { dtype: 'f32' };

  const embedding = freezeWeight(await read('model.embed_tokens.weight'), [config.vocabSize, config.hiddenSize], plain);
  const blocks: LlamaBlock[] = [];
  for (let layer = 0; layer < config.layers; layer++) {
    const linear = {} as Record<BlockModule, FrozenWeight>;
    for (const name of blockModules) {
      linear[name] = freezeWeight(await read(`${modulePath(layer, name)}.weight`), moduleShape(config, name), base, { resident });
    }
    const inputNorm = await vector(`model.layers.${layer}.input_layernorm.weight`);
    const postAttentionNorm = await vector(`model.layers.${layer}.post_attention_layernorm.weight`);
    blocks.push({ inputNorm, postAttentionNorm, linear });
  }
  const norm = await vector('model.norm.weight');
  const head = config.tiedEmbeddings ? embedding : freezeWeight(await read('lm_head.weight'), moduleShape(config, 'lm_head'), plain);
  return { config, base, embedding, blocks, norm, head, parameters };
}

export function disposeModel({ embedding, blocks, norm, head }: LlamaModel): void {
  const weights = [embedding, ...(head === embedding ? [] : [head]), ...blocks.flatMap(({ linear }) => Object.values(linear))];
  weights.forEach(disposeWeight);
  for (const tensor of [norm, ...blocks.flatMap(({ inputNorm, postAttentionNorm }) => [inputNorm, postAttentionNorm])]) tensor.dispose();
}
