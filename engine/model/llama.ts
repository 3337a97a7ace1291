import { add, gather, mul, reshape, tensor2d, tidy, type Tensor2D } from '@tensorflow/tfjs-core';
import { windowOf } from '../formats/llama-config.js';
import { adaptedLinear } from '../tensor/adapted-linear.js';
import { causalAttention, type AttentionMemory } from '../tensor/causal-attention.js';
import { embedding } from '../tensor/embedding.js';
import { headCrossEntropy } from '../tensor/head-cross-entropy.js';
import type { LoraBranch } from '../tensor/lora.js';
import { rmsNorm } from '../tensor/rms-norm.js';
import { uniformNoise } from '../tensor/uniform-noise.js';
import type { Scalar } from '@tensorflow/tfjs-core';
import { drawKey, NOISE_PLACE, type DropoutDraw, type LoraAdapter } from './adapter.js';
import type { DeviceBatch } from './batch-feed.js';
import { blockForward, type BlockContext } from './block.js';
import type { LlamaModel } from './load.js';
import { ropeTables } from './rope-tables.js';

/** Tokens in B lines of T positions, as engine/data packs them; every array is [B, T], row-major. */
export interface TokenBatch {
  shape: [number, number];
  inputIds: Int32Array;
  /** Within the row, from 0. */
  positions: Int32Array;
  /** Attention stays inside a segment; 0 is padding. */
  segments: Int32Array;
}
/** A token batch with the token that follows at each position, or a negative number where the loss does not count it. */
export interface LabelledBatch extends TokenBatch {
  labels: Int32Array;
}

/** A frozen model with an adapter, or without. `draw` turns dropout on. */
export interface Llama {
  model: LlamaModel;
  adapter?: LoraAdapter;
  draw?: DropoutDraw;
}

/** Where linear layers get their branches from, by path. */
export interface Branches {
  branch(path: string, draw?: DropoutDraw): LoraBranch | undefined;
}

/** What runs: a model, and where its linear layers get their branches from. */
export interface BranchedModel {
  model: LlamaModel;
  adapter?: Branches;
  draw?: DropoutDraw;
}

/** What the blocks need to run over a whole batch at once. Its tensors live as long as the surrounding tidy. */
export const batchContext = (llama: BranchedModel, { shape, positions, segments }: TokenBatch): BlockContext =>
  blockContext(llama, { shape, segments: tensor2d(segments, shape, 'int32'), rope: ropeTables(llama.model.config, positions, shape) });

/** The same of a batch that is on the device. @param memory of attention's results, for blocks that are run again */
export const blockContext = ({ model, adapter, draw }: BranchedModel, { shape, segments, rope }: Pick<DeviceBatch, 'shape' | 'segments' | 'rope'>, memory: AttentionMemory = {}): BlockContext => ({
  shape,
  rope,
  attend: (layer, q, k, v, rope) => causalAttention(q, k, v, segments, { window: windowOf(model.config, layer), rope, fromLinears: !model.blocks[layer].qkNorm, ...memory }),
  lora: (path) => adapter?.branch(path, draw),
});

/** Embeds the tokens: [B·T, hidden]. */
export const embed = (model: LlamaModel, { inputIds, shape }: Pick<TokenBatch, 'inputIds' | 'shape'>): Tensor2D => embedIds(model, tensor2d(inputIds, shape, 'int32'));

/** ids int32 [B, T] → [B·T, hidden]. */
export const embedIds = (model: LlamaModel, ids: Tensor2D): Tensor2D => reshape(embedding(model.embedding, ids), [ids.size, model.config.hiddenSize]);

/** The tokens of a batch on the device: [B·T, hidden], with noise where the batch says of what magnitude (NEFTune, arXiv 2310.05914). */
export function embedBatch({ model, draw }: Llama, { ids, noise }: Pick<DeviceBatch, 'ids' | 'noise'>): Tensor2D {
  const embedded = embedIds(model, ids);
  return draw && noise ? add(embedded, mul(uniformNoise(embedded.shape, 1, drawKey(draw, NOISE_PLACE)), noise)) : embedded;
}

/** The residual stream after the last block, before the final norm: [B·T, hidden]. */
export function forward(llama: Llama, batch: TokenBatch): Tensor2D {
  return tidy(() => {
    const context = batchContext(llama, batch);
    let x = embed(llama.model, batch);
    for (let layer = 0; layer < llama.model.config.layers; layer++) {
      const input = x;
      x = tidy(() => blockForward(llama.model, layer, input, context));
      input.dispose();
    }
    return x;
  });
}

/** Logits for rows of the residual stream: [N, hidden] → [N, vocab]. */
export function logitsOf({ model, adapter, draw }: BranchedModel, hidden: Tensor2D): Tensor2D {
  return tidy(() => {
    const normed = rmsNorm(hidden, model.norm, model.config.rmsNormEps);
    return adaptedLinear(normed, model.head, { lora: adapter?.branch('lm_head', draw) }) as Tensor2D;
  });
}

/** Logits at every position: [B·T, vocab]. */
export const logits = (llama: Llama, batch: TokenBatch): Tensor2D => tidy(() => logitsOf(llama, forward(llama, batch)));

/**
 * Sum of the negative log-likelihoods (nats) of the counted labels. Norm and head see only the positions that count.
 * @param logits that exist at one time: see `linearCrossEntropy`
 */
export function summedLoss({ model, adapter, draw }: Llama, hidden: Tensor2D, { places, targets }: Pick<DeviceBatch, 'places' | 'targets'>, logits?: number): Scalar {
  const normed = rmsNorm(places.size === 0 ? hidden : gather(hidden, places), model.norm, model.config.rmsNormEps, { forLinears: true }) as Tensor2D;
  return headCrossEntropy(normed, model.head, targets, { lora: adapter?.branch('lm_head', draw), logits });
}
