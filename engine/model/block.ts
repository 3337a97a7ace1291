import { reshape, type Tensor, type Tensor1D, type Tensor2D, type Tensor4D } from '@tensorflow/tfjs-core';
import { adaptedLinears } from '../tensor/adapted-linear.js';
import type { LoraBranch } from '../tensor/lora.js';
import type { LayerInput } from '../tensor/quantized-linear.js';
import { rmsNorm } from '../tensor/rms-norm.js';
import type { LlamaModel } from './load.js';
import type { RopeTables } from './rope-tables.js';
import { modulePath, type BlockModule } from '../formats/linear-modules.js';

/**
 * Attention of layer `layer`: q [B,T,H,D], k and v [B,T,Hkv,D] → [B,T,H,D]. q and k are still to be rotated, by `rope`; where it is
 * absent, the layer has no positions.
 */
export type Attend = (layer: number, q: Tensor4D, k: Tensor4D, v: Tensor4D, rope?: RopeTables) => Tensor;

/** What a block needs beside its weights. */
export interface BlockContext {
  /** B lines of T positions. */
  shape: [number, number];
  rope: RopeTables;
  attend: Attend;
  /** The LoRA branch of a linear layer, by its path. */
  lora(path: string): LoraBranch | undefined;
  /** Nothing reads what a half returns: it runs for its gradients alone, which are taken at once. @default false */
  unread?: boolean;
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
  /** Queries or keys, normalised where the model does. */
  const prepared = (values: Tensor4D, norm?: Tensor1D): Tensor4D => (norm ? rmsNorm(values, norm, rmsNormEps) : values) as Tensor4D;

  const [residual, queries, keys, values] = project(['q_proj', 'k_proj', 'v_proj'], { x, norm: inputNorm, eps: rmsNormEps });
  const q = prepared(split(queries, heads), qkNorm?.query);
  const k = prepared(split(keys, kvHeads), qkNorm?.key);
  const attended = reshape(attend(layer, q, k, split(values, kvHeads), rotates ? rope : undefined), [x.shape[0], heads * headDim]);
  return project(['o_proj'], attended, residual, context.unread)[0] as Tensor2D;
}

/** A block's feed-forward layer and the residual stream around it: x [B·T, hidden] → [B·T, hidden]. */
export function feedForwardHalf(model: LlamaModel, layer: number, x: Tensor2D, context: BlockContext): Tensor2D {
  const project = projections(model, layer, context);
  const [residual, gate, up] = project(['gate_proj', 'up_proj'], { x, norm: model.blocks[layer].postAttentionNorm, eps: model.config.rmsNormEps });
  return project(['down_proj'], { gate, up }, residual, context.unread)[0] as Tensor2D;
}

/** A block's linear layers by name, several of one input at a time; `residual` is added to the result. */
function projections(model: LlamaModel, layer: number, { lora, unread: gradientNext }: BlockContext): (names: readonly BlockModule[], input: LayerInput, residual?: Tensor, unread?: boolean) => Tensor[] {
  const { linear, biases } = model.blocks[layer];
  return (names, input, residual, unread) =>
    adaptedLinears(input, names.map((name) => ({ weight: linear[name], lora: lora(modulePath(layer, name)), bias: biases?.[name], residual, unread, gradientNext })));
}
