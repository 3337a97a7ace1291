import { clone, tidy, type Scalar, type Tensor, type Tensor2D, type Variable } from '@tensorflow/tfjs-core';
import { addGradients } from '../tensor/gradient-sums.js';
import { shelve, type Shelved } from '../tensor/replay.js';
import { takeGradients } from '../tensor/take-gradients.js';
import type { LoraAdapter, LoraParameter } from './adapter.js';
import type { DeviceBatch } from './batch-feed.js';
import { attentionHalf, feedForwardHalf } from './block.js';
import { runBlocks } from './blocks.js';
import { blockContext, embedBatch, summedLoss, type Llama } from './llama.js';

export interface GradientOptions {
  /** The gradients are those of `loss × weight`. */
  weight: Scalar;
  /** Where they go, in the order of `adapter.parameters()`; see `createGradientSums`. */
  sums: readonly Variable[];
  /** They replace what is there instead of being added to it. */
  first: boolean;
  /** Keep only what enters the blocks' halves and run each half again in the backward pass. The numbers are the same. @default false */
  recompute?: boolean;
}

type TrainedLlama = Llama & { adapter: LoraAdapter };

/** Forward and backward pass over one batch. @returns the sum of the counted tokens' negative log-likelihoods in nats */
export function lossAndGradients(llama: TrainedLlama, batch: DeviceBatch, options: GradientOptions): Scalar {
  return tidy(() => (options.recompute ? halfByHalf(llama, batch, options) : inOnePass(llama, batch, options)));
}

function inOnePass(llama: TrainedLlama, batch: DeviceBatch, { weight, sums, first }: GradientOptions): Scalar {
  const variables: Tensor[] = llama.adapter.parameters().map(({ variable }) => variable);
  const forward = () => summedLoss(llama, runBlocks(llama, embedBatch(llama, batch), blockContext(llama, batch)), batch);
  const { value, gradients } = takeGradients(forward, variables, clone(weight));
  addGradients([...sums], gradients, first);
  return value;
}

const halves = [attentionHalf, feedForwardHalf] as const;
/** How the names of a half's modules begin, after the block's. */
const halfNames = ['.self_attn.', '.mlp.'] as const;

const parametersOf = (adapter: LoraAdapter, place: number): LoraParameter[] =>
  adapter.parametersOf(Math.floor(place / 2)).filter(({ name }) => name.includes(halfNames[place % 2]));

function halfByHalf(llama: TrainedLlama, batch: DeviceBatch, { weight, sums, first }: GradientOptions): Scalar {
  const { model, adapter } = llama;
  const context = blockContext(llama, batch);
  const { layers } = model.config;
  /** Blocks go by halves, of which one is in memory at a time: twice their number in all. */
  const half = (place: number, x: Tensor2D, unread = false): Tensor2D => tidy(() => halves[place % 2](model, Math.floor(place / 2), x, { ...context, unread }));
  const sumOf = new Map(adapter.parameters().map(({ name }, i) => [name, sums[i]]));
  /** Adds up the gradients of a part's parameters; f's value and the gradient of x remain. */
  const backward = <T extends Tensor>(f: () => T, x: Tensor2D, parameters: LoraParameter[], dy: Tensor): { value: T; dx: Tensor2D } => {
    const { value, gradients: [dx, ...rest] } = takeGradients(f, [x, ...parameters.map(({ variable }) => variable)], dy);
    addGradients(parameters.map(({ name }) => sumOf.get(name)!), rest, first);
    for (const tensor of [x, ...rest]) tensor.dispose();
    return { value, dx: dx as Tensor2D };
  };

  const inputs: Shelved[] = [];
  let x = embedBatch(llama, batch);
  for (let place = 0; place < 2 * layers; place++) {
    const y = half(place, x);
    inputs.push(shelve(x));
    x = y;
  }
  const last = x;
  inputs.at(-1)?.fetch();
  const top = backward(() => summedLoss(llama, last, batch), last, adapter.parametersOf(undefined), clone(weight));
  let dy: Tensor = top.dx;
  for (let place = 2 * layers - 1; place >= 0; place--) {
    const input = inputs.pop()!.take() as Tensor2D;
    inputs.at(-1)?.fetch();
    const { value, dx } = backward(() => half(place, input, true), input, parametersOf(adapter, place), dy);
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
