import { concat, engine, gather, reshape, scalar, tensor1d, tensor2d, tidy, type Scalar, type Tensor, type Tensor1D, type Tensor2D, type Tensor3D } from '@tensorflow/tfjs-core';
import type { DropoutDraw, LoraAdapter } from '../engine/model/adapter.js';
import { blockForward, type BlockContext } from '../engine/model/block.js';
import type { LabelledBatch } from '../engine/model/llama.js';
import type { LlamaModel } from '../engine/model/load.js';
import { ropeTables } from '../engine/model/rope-tables.js';
import { causalAttention } from '../engine/tensor/causal-attention.js';
import { embedding } from '../engine/tensor/embedding.js';
import { linearCrossEntropy } from '../engine/tensor/linear-cross-entropy.js';
import { rmsNorm } from '../engine/tensor/rms-norm.js';

/** Everything of a micro-batch that varies, as tensors: what a recorded graph takes. */
export type BatchTensors = [ids: Tensor2D, segments: Tensor2D, cos: Tensor3D, sin: Tensor3D, places: Tensor1D, labels: Tensor1D, weight: Scalar];

export function batchTensors(model: LlamaModel, { shape, inputIds, positions, segments, labels }: LabelledBatch, weight: number): BatchTensors {
  const { cos, sin } = ropeTables(model.config, positions, shape);
  const places = Int32Array.from(labels.keys()).filter((place) => labels[place] >= 0);
  return [
    tensor2d(inputIds, shape, 'int32'), tensor2d(segments, shape, 'int32'), cos, sin,
    tensor1d(places, 'int32'), tensor1d(places.map((place) => labels[place]), 'int32'), scalar(weight),
  ];
}

/** Summed loss and, in one row, the gradients of loss × weight, in the order of the adapter's parameters. */
export function microBatch(model: LlamaModel, adapter: LoraAdapter, draw: DropoutDraw, [ids, segments, cos, sin, places, labels, weight]: BatchTensors, recompute: boolean): [Tensor, Tensor] {
  const { config } = model;
  const context: BlockContext = {
    shape: ids.shape as [number, number],
    rope: { cos, sin },
    attend: (_layer, q, k, v) => causalAttention(q, k, v, segments),
    lora: (path) => adapter.branch(path, draw),
  };
  const embedded = () => reshape(embedding(model.embedding, ids), [ids.size, config.hiddenSize]) as Tensor2D;
  const block = (layer: number, x: Tensor2D) => tidy(() => blockForward(model, layer, x, context));
  const top = (x: Tensor2D): Tensor => {
    const normed = rmsNorm(gather(x, places), model.norm, config.rmsNormEps) as Tensor2D;
    return linearCrossEntropy(normed, model.head, labels, { lora: adapter.branch('lm_head', draw) });
  };
  const variables = (layer?: number): Tensor[] => adapter.parametersOf(layer).map(({ variable }) => variable);
  const flat = (gradients: Tensor[]) => concat(gradients.map((gradient) => reshape(gradient, [gradient.size])));

  if (!recompute) {
    const all = adapter.parameters().map(({ variable }) => variable as Tensor);
    const { value, grads } = engine().gradients(() => {
      let x = embedded();
      for (let layer = 0; layer < config.layers; layer++) x = block(layer, x);
      return top(x);
    }, all, weight as Tensor);
    return [value, flat(grads)];
  }
  const inputs: Tensor2D[] = [embedded()];
  for (let layer = 0; layer < config.layers; layer++) inputs.push(block(layer, inputs[layer]));
  const last = inputs.pop()!;
  const head = engine().gradients(() => top(last), [last as Tensor, ...variables()], weight as Tensor);
  last.dispose();
  let dy = head.grads[0];
  const found: Tensor[][] = [];
  for (let layer = config.layers - 1; layer >= 0; layer--) {
    const x = inputs.pop()!;
    const { value, grads } = engine().gradients(() => block(layer, x) as Tensor, [x as Tensor, ...variables(layer)], dy);
    for (const tensor of [value, x, dy]) tensor.dispose();
    dy = grads[0];
    found.unshift(grads.slice(1));
  }
  return [head.value, flat([...found, head.grads.slice(1)].flat())];
}
