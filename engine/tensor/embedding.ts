import { gather, reshape, type Tensor, type Tensor2D, type Tensor3D } from '@tensorflow/tfjs-core';
import { dequantize, type FrozenWeight } from './frozen-weight.js';
import { registerPortableKernel, runKernel, type Inputs } from './kernel.js';
import { shapeError, shapeText } from './shape-error.js';
import { gatherRows, isNative } from './tensorflow-native.js';

/** Kernel: { ids int32 [B,T] }, { weight } → [B,T,h]. */
export const Embedding = 'TemperEmbedding';
export interface EmbeddingInputs extends Inputs {
  ids: Tensor2D;
}
export interface EmbeddingAttrs {
  weight: FrozenWeight;
}

/**
 * Rows of a table. A gradient flows to one that is trained.
 * @param weight [vocabulary, h]
 * @param ids int32 [B, T], each below the vocabulary's size (not checked here: that would read them back from the device)
 * @returns [B, T, h]
 */
export function embedding(weight: FrozenWeight, ids: Tensor2D): Tensor3D {
  if (ids.rank !== 2 || ids.dtype !== 'int32') throw shapeError(`embedding: ids: expected int32 [B,T], got ${ids.dtype} ${shapeText(ids)}`);
  if (weight.kind === 'dense' && weight.trained) return reshape(gather(weight.value, reshape(ids, [-1])), [...ids.shape, weight.shape[1]]) as Tensor3D;
  return runKernel<Tensor3D>(Embedding, { ids }, { weight } satisfies EmbeddingAttrs);
}

registerPortableKernel<EmbeddingInputs, EmbeddingAttrs>(Embedding, ({ ids }, { weight }) => {
  const table: Tensor = dequantize(weight);
  if (isNative()) return gatherRows(table, ids);
  return reshape(gather(table, reshape(ids, [-1])), [...ids.shape, weight.shape[1]]);
});
