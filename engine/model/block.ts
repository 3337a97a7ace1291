import { add, reshape, type Tensor, type Tensor1D, type Tensor2D, type Tensor4D } from '@tensorflow/tfjs-core';
import { adaptedLinear } from '../tensor/adapted-linear.js';
import type { LoraBranch } from '../tensor/lora.js';
import { rmsNorm } from '../tensor/rms-norm.js';
import { rotaryEmbedding } from '../tensor/rotary-embedding.js';
import { swiGlu } from '../tensor/swi-glu.js';
import type { LlamaModel } from './load.js';
import type { RopeTables } from './rope-tables.js';
import { modulePath, type BlockModule } from './targets.js';

/** What a block needs beside its weights. */
export interface BlockContext {
  /** B lines of T positions. */
  shape: [number, number];
  rope: RopeTables;
  /** Attention of layer `layer`: q [B,T,H,D] and rotated k, v [B,T,Hkv,D] → [B,T,H,D]. */
  attend(layer: number, q: Tensor4D, k: Tensor4D, v: Tensor4D): Tensor;
  /** The LoRA branch of a linear layer, by its path. */
  lora(path: string): LoraBranch | undefined;
}

/** One transformer block: x [B·T, hidden] → [B·T, hidden]. */
export const blockForward = (model: LlamaModel, layer: number, x: Tensor2D, context: BlockContext): Tensor2D =>
  feedForwardHalf(model, layer, attentionHalf(model, layer, x, context), context);

/** A block's attention and the residual stream around it: x [B·T, hidden] → [B·T, hidden]. */
export function attentionHalf(model: LlamaModel, layer: number, x: Tensor2D, context: BlockContext): Tensor2D {
  const { shape, rope, attend } = context;
  const { heads, kvHeads, headDim, rmsNormEps } = model.config;
  const { inputNorm, qkNorm } = model.blocks[layer];
  const project = projections(model, layer, context);
  const split = (values: Tensor, count: number): Tensor4D => reshape(values, [...shape, count, headDim]);
  const rotates = model.config.unrotatedLayers?.includes(layer) !== true;
  /** Queries or keys as attention takes them: normalised and rotated, where the model does. */
  const prepared = (values: Tensor4D, norm?: Tensor1D): Tensor4D => {
    const normed = norm ? rmsNorm(values, norm, rmsNormEps) : values;
    return (rotates ? rotaryEmbedding(normed as Tensor4D, rope.cos, rope.sin) : normed) as Tensor4D;
  };

  const normed = rmsNorm(x, inputNorm, rmsNormEps);
  const q = prepared(split(project('q_proj', normed), heads), qkNorm?.query);
  const k = prepared(split(project('k_proj', normed), kvHeads), qkNorm?.key);
  const v = split(project('v_proj', normed), kvHeads);
  const attended = reshape(attend(layer, q, k, v), [x.shape[0], heads * headDim]);
  return add(x, project('o_proj', attended));
}

/** A block's feed-forward layer and the residual stream around it: x [B·T, hidden] → [B·T, hidden]. */
export function feedForwardHalf(model: LlamaModel, layer: number, x: Tensor2D, context: BlockContext): Tensor2D {
  const project = projections(model, layer, context);
  const wide = rmsNorm(x, model.blocks[layer].postAttentionNorm, model.config.rmsNormEps);
  const gated = swiGlu(project('gate_proj', wide), project('up_proj', wide));
  return add(x, project('down_proj', gated));
}

/** A block's linear layers, by name. */
function projections(model: LlamaModel, layer: number, { lora }: BlockContext): (name: BlockModule, input: Tensor) => Tensor {
  const { linear, biases } = model.blocks[layer];
  return (name, input) => adaptedLinear(input, linear[name], { lora: lora(modulePath(layer, name)), bias: biases?.[name] });
}
