import { clone, dispose, keep, tidy, type Scalar, type Tensor, type Tensor2D, type Tensor4D, type Variable } from '@tensorflow/tfjs-core';
import { addGradients } from '../tensor/gradient-sums.js';
import { atHand, hasShelf, shelve, type Shelved } from '../tensor/replay.js';
import { takeGradients } from '../tensor/take-gradients.js';
import type { AttentionResult } from '../tensor/causal-attention.js';
import type { LoraAdapter, LoraParameter } from './adapter.js';
import type { DeviceBatch } from './batch-feed.js';
import { attentionHalf, feedForwardHalf, type BlockContext } from './block.js';
import { runBlocks } from './blocks.js';
import { blockContext, embedBatch, summedLoss, type Llama } from './llama.js';

export interface GradientOptions {
  /** The gradients are those of `loss × weight`. */
  weight: Scalar;
  /** Where they go, in the order of `adapter.parameters()`; see `createGradientSums`. */
  sums: readonly Variable[];
  /** They replace what is there instead of being added to it. */
  first: boolean;
  /**
   * Keep only what enters the blocks' halves, and attention's results where there is a shelf for them, and run each half again in
   * the backward pass. The numbers are the same. @default false
   */
  recompute?: boolean;
  /** Logits that exist at one time: see `linearCrossEntropy`. */
  logits?: number;
}

type TrainedLlama = Llama & { adapter: LoraAdapter };

/** Forward and backward pass over one batch. @returns the sum of the counted tokens' negative log-likelihoods in nats */
export function lossAndGradients(llama: TrainedLlama, batch: DeviceBatch, options: GradientOptions): Scalar {
  return tidy(() => (options.recompute ? halfByHalf(llama, batch, options) : inOnePass(llama, batch, options)));
}

function inOnePass(llama: TrainedLlama, batch: DeviceBatch, { weight, sums, first, logits }: GradientOptions): Scalar {
  const variables: Tensor[] = llama.adapter.parameters().map(({ variable }) => variable);
  const forward = () => summedLoss(llama, runBlocks(llama, embedBatch(llama, batch), blockContext(llama, batch)), batch, logits);
  const { value, gradients } = takeGradients(forward, variables, clone(weight));
  addGradients([...sums], gradients, first);
  return value;
}

const halves = [attentionHalf, feedForwardHalf] as const;
/** How the names of a half's modules begin, after the block's. */
const halfNames = ['.self_attn.', '.mlp.'] as const;

const parametersOf = (adapter: LoraAdapter, place: number): LoraParameter[] =>
  adapter.parametersOf(Math.floor(place / 2)).filter(({ name }) => name.includes(halfNames[place % 2]));

function halfByHalf(llama: TrainedLlama, batch: DeviceBatch, { weight, sums, first, logits }: GradientOptions): Scalar {
  const { model, adapter } = llama;
  /** Blocks go by halves, of which one is in memory at a time: twice their number in all. */
  const places = 2 * model.config.layers;
  const half = (place: number, x: Tensor2D, context: BlockContext): Tensor2D => tidy(() => halves[place % 2](model, Math.floor(place / 2), x, context));
  /** The half's result, and what the same half needs to be run again: its input, and attention's out and state where these cost no memory. */
  const forward = (place: number, x: Tensor2D): { y: Tensor2D; needed: Tensor[] } => {
    const kept: Tensor[] = [];
    const onResult = hasShelf() ? ({ out, state }: AttentionResult) => void kept.push(keep(clone(out)), keep(state)) : undefined;
    try {
      return tidy(() => ({ y: half(place, x, blockContext(llama, batch, { onResult })), needed: [x, ...kept.map((tensor) => clone(tensor))] }));
    } finally {
      dispose(kept);
    }
  };
  const again = (place: number, [x, out, state]: Tensor[]): Tensor2D =>
    half(place, x as Tensor2D, { ...blockContext(llama, batch, { known: out && { out: out as Tensor4D, state } }), unread: true });
  const sumOf = new Map(adapter.parameters().map(({ name }, i) => [name, sums[i]]));
  /** Adds up the gradients of a part's parameters; f's value and the gradient of x remain. */
  const backward = <T extends Tensor>(f: () => T, x: Tensor2D, parameters: LoraParameter[], dy: Tensor): { value: T; dx: Tensor2D } => {
    const { value, gradients: [dx, ...rest] } = takeGradients(f, [x, ...parameters.map(({ variable }) => variable)], dy);
    addGradients(parameters.map(({ name }) => sumOf.get(name)!), rest, first);
    for (const tensor of [x, ...rest]) tensor.dispose();
    return { value, dx: dx as Tensor2D };
  };

  const shelved: Shelved[] = [];
  let x = tidy(() => embedBatch(llama, batch)); // what it was made from goes at once
  for (let place = 0; place < places - 1; place++) {
    const { y, needed } = forward(place, x);
    shelved.push(place === places - 2 ? atHand(needed) : shelve(needed)); // the last of them is the first to be needed
    x = y;
  }
  shelved.at(-2)?.fetch(); // which also frees what was put away last
  // The last half's gradients come next to its own forward pass: it runs but once.
  const last = x, lossOf = () => summedLoss(llama, half(places - 1, last, blockContext(llama, batch)), batch, logits);
  const top = backward(lossOf, last, [...parametersOf(adapter, places - 1), ...adapter.parametersOf(undefined)], clone(weight));
  let dy: Tensor = top.dx;
  for (let place = places - 2; place >= 0; place--) {
    const needed = shelved.pop()!.take();
    shelved.at(-1)?.fetch();
    const { value, dx } = backward(() => again(place, needed), needed[0] as Tensor2D, parametersOf(adapter, place), dy);
    dispose([value, ...needed.slice(1)]);
    dy = dx;
  }
  const embeddings = adapter.parametersOf('embedding');
  if (embeddings.length > 0) {
    const { gradients } = takeGradients(() => embedBatch(llama, batch), embeddings.map(({ variable }) => variable), dy);
    addGradients(embeddings.map(({ name }) => sumOf.get(name)!), gradients, first);
  }
  return top.value;
}
