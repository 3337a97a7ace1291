import type { Tensor2D } from '@tensorflow/tfjs-core';
import { modulePath } from '../formats/linear-modules.js';
import { rowSquares } from '../tensor/dora-linear.js';
import type { DenseWeight } from '../tensor/weight-types.js';
import type { LoraAdapter } from './adapter.js';
import { linearWeight, type LlamaModel } from './load.js';

/**
 * `withTrainedParts` of a whole model, which is ready to run many times: what its ops would work out at their first call, and keep,
 * is worked out here.
 */
export function adaptedModel(model: LlamaModel, adapter: LoraAdapter | undefined): LlamaModel {
  if (adapter?.options.useDora) for (const path of adapter.modulePaths()) rowSquares(linearWeight(model, path));
  return withTrainedParts(model, adapter);
}

/**
 * The model with what an adapter trains of it in place of its own: biases, embedding and head. The model itself where it trains
 * nothing of the kind; the low-rank branches are not in it. Its tensors are those of model and adapter: there is nothing to dispose.
 */
export function withTrainedParts(model: LlamaModel, adapter: LoraAdapter | undefined): LlamaModel {
  const { bias = 'none', modulesToSave = [] } = adapter?.options ?? {};
  if (!adapter || (bias === 'none' && modulesToSave.length === 0)) return model;
  const trained = (value: Tensor2D | undefined): DenseWeight | undefined => value && { kind: 'dense', shape: value.shape, value, trained: true };
  return {
    ...model,
    embedding: trained(adapter.saved('embed_tokens')) ?? model.embedding,
    head: trained(adapter.saved('lm_head')) ?? model.head,
    blocks: model.blocks.map((block, layer) => ({
      ...block,
      biases: Object.fromEntries((model.config.biases ?? []).map((name) => [name, adapter.bias(modulePath(layer, name)) ?? block.biases![name]])),
    })),
  };
}
