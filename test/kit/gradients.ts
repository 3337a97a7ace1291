import { dispose, scalar, type Scalar, type Variable } from '@tensorflow/tfjs-core';
import type { LoraAdapter } from '../../engine/model/adapter.js';
import { BatchFeed } from '../../engine/model/batch-feed.js';
import { lossAndGradients } from '../../engine/model/gradients.js';
import type { LabelledBatch, Llama } from '../../engine/model/llama.js';
import { createGradientSums } from '../../engine/tensor/gradient-sums.js';

export interface BatchGradientOptions {
  /** The gradients are those of `loss × weight`. */
  weight: number;
  recompute?: boolean;
  /** Pad the positions that the loss counts. @default false */
  padsCounted?: boolean;
}

/** Loss and gradients of one batch, in the order of `adapter.parameters()`; all of them to be disposed. */
export function batchGradients(llama: Llama & { adapter: LoraAdapter }, batch: LabelledBatch, { weight, recompute, padsCounted = false }: BatchGradientOptions): { loss: Scalar; gradients: Variable[] } {
  const gradients = createGradientSums(llama.adapter.parameters().map(({ variable }) => variable));
  const feed = new BatchFeed(llama.model.config, batch.shape[1], padsCounted);
  const factor = scalar(weight);
  const inputs = feed.upload(batch);
  const opened = feed.open(inputs);
  const loss = lossAndGradients(llama, opened, { weight: factor, sums: gradients, first: true, recompute });
  dispose([inputs, factor, opened.rope.cos, opened.rope.sin]);
  feed.dispose();
  return { loss, gradients };
}
