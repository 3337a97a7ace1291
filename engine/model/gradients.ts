import { clone, tidy, type Scalar, type Tensor, type Tensor2D, type Variable } from '@tensorflow/tfjs-core';
import { addGradients } from '../tensor/gradient-sums.js';
import { shelve } from '../tensor/replay.js';
import { takeGradients } from '../tensor/take-gradients.js';
import type { LoraAdapter } from './adapter.js';
import type { DeviceBatch } from './batch-feed.js';
import { blockForward } from './block.js';
import { runBlocks } from './blocks.js';
import { blockContext, embedBatch, summedLoss, type Llama } from './llama.js';

export interface GradientOptions {
  /** The gradients are those of `loss × weight`. */
  weight: Scalar;
  /** Where they go, in the order of `adapter.parameters()`; see `createGradientSums`. */
  sums: readonly Variable[];
  /** They replace what is there instead of being added to it. */
  first: boolean;
  /** Keep only the blocks' inputs and run each block again in the backward pass. The numbers are the same. @default false */
  recompute?: boolean;
}

type TrainedLlama = Llama & { adapter: LoraAdapter };

/** Forward and backward pass over one batch. @returns the sum of the counted tokens' negative log-likelihoods in nats */
export function lossAndGradients(llama: TrainedLlama, batch: DeviceBatch, options: GradientOptions): Scalar {
  return tidy(() => (options.recompute ? blockByBlock(llama, batch, options) : inOnePass(llama, batch, options)));
}

function inOnePass(llama: TrainedLlama, batch: DeviceBatch, { weight, sums, first }: GradientOptions): Scalar {
  const variables: Tensor[] = llama.adapter.parameters().map(({ variable }) => variable);
  const forward = () => summedLoss(llama, runBlocks(llama, embedBatch(llama, batch), blockContext(llama, batch)), batch);
  const { value, gradients } = takeGradients(forward, variables, clone(weight));
  addGradients([...sums], gradients, first);
  return value;
}

function blockByBlock(llama: TrainedLlama, batch: DeviceBatch, { weight, sums, first }: GradientOptions): Scalar {
  const { model, adapter } = llama;
  const context = blockContext(llama, batch);
  const block = (layer: number, x: Tensor2D): Tensor2D => tidy(() => blockForward(model, layer, x, context));
  const sumOf = new Map(adapter.parameters().map(({ name }, i) => [name, sums[i]]));
  /** Adds up the gradients of a part's parameters; f's value and the gradient of x remain. */
  const backward = <T extends Tensor>(f: () => T, x: Tensor2D, layer: number | undefined, dy: Tensor): { value: T; dx: Tensor2D } => {
    const parameters = adapter.parametersOf(layer);
    const { value, gradients: [dx, ...rest] } = takeGradients(f, [x, ...parameters.map(({ variable }) => variable)], dy);
    addGradients(parameters.map(({ name }) => sumOf.get(name)!), rest, first);
    for (const tensor of [x, ...rest]) tensor.dispose();
    return { value, dx: dx as Tensor2D };
  };

  const inputs = [];
  let x = embedBatch(llama, batch);
  for (let layer = 0; layer < model.config.layers; layer++) {
    const y = block(layer, x);
    inputs.push(shelve(x));
    x = y;
  }
  const last = x;
  inputs.at(-1)?.fetch();
  const top = backward(() => summedLoss(llama, last, batch), last, undefined, clone(weight));
  let dy: Tensor = top.dx;
  for (let layer = model.config.layers - 1; layer >= 0; layer--) {
    const input = inputs.pop()!.take() as Tensor2D;
    inputs.at(-1)?.fetch();
    const { value, dx } = backward(() => block(layer, input), input, layer, dy);
    value.dispose();
    dy = dx;
  }
  const embeddings = adapter.parametersOf('embedding');
  if (embeddings.length > 0) {
    const { gradients } = takeGradients(() => embedBatch(llama, batch), embeddings.map(({ variable }) => variable), dy);
    addGradients(embeddings.map(({ name }) => sumOf.get(name)!), gradients, first);
  }
  return top.value;
}
