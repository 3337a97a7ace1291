import { engine, scalar, tidy, type Scalar, type Tensor, type Tensor2D } from '@tensorflow/tfjs-core';
import type { LoraAdapter } from './adapter.js';
import { blockForward } from './block.js';
import { batchContext, embed, forward, summedLoss, type LabelledBatch, type Llama } from './llama.js';

/** A micro-batch's loss and gradients, to be disposed by the caller. */
export type LossAndGradients = {
  /** Sum of the counted tokens' negative log-likelihoods in nats. */
  loss: Scalar;
  /** In the order of `adapter.parameters()`. */
  gradients: Tensor[];
};

export interface GradientOptions {
  /** The gradients are those of `loss × weight`. */
  weight: number;
  /** Keep only the blocks' inputs and run each block again in the backward pass. The numbers are the same. @default false */
  recompute?: boolean;
}

/** Forward and backward pass over one micro-batch. */
export function lossAndGradients(llama: Llama & { adapter: LoraAdapter }, batch: LabelledBatch, { weight, recompute = false }: GradientOptions): LossAndGradients {
  return tidy(() => (recompute ? blockByBlock(llama, batch, weight) : inOnePass(llama, batch, weight)));
}

const variablesOf = (parameters: ReturnType<LoraAdapter['parameters']>): Tensor[] => parameters.map(({ variable }) => variable);

function inOnePass(llama: Llama & { adapter: LoraAdapter }, batch: LabelledBatch, weight: number): LossAndGradients {
  const { value, grads } = engine().gradients(() => summedLoss(llama, forward(llama, batch), batch), variablesOf(llama.adapter.parameters()), scalar(weight));
  return { loss: value, gradients: grads };
}

function blockByBlock(llama: Llama & { adapter: LoraAdapter }, batch: LabelledBatch, weight: number): LossAndGradients {
  const { model, adapter } = llama;
  const context = batchContext(llama, batch);
  const block = (layer: number, x: Tensor2D): Tensor2D => tidy(() => blockForward(model, layer, x, context));
  const inputs = [embed(model, batch)];
  for (let layer = 0; layer < model.config.layers; layer++) inputs.push(block(layer, inputs[layer]));

  const byName = new Map<string, Tensor>();
  /** Gradients of `f` with respect to x and the parameters; the latter are filed, the former returned. */
  const backward = <T extends Tensor>(f: () => T, x: Tensor2D, layer: number | undefined, dy: T): { value: T; dx: Tensor2D } => {
    const parameters = adapter.parametersOf(layer);
    const { value, grads } = engine().gradients(f, [x, ...variablesOf(parameters)], dy);
    parameters.forEach(({ name }, i) => byName.set(name, grads[i + 1]));
    return { value, dx: grads[0] as Tensor2D };
  };

  const last = inputs.pop()!;
  const top = backward<Scalar>(() => summedLoss(llama, last, batch), last, undefined, scalar(weight));
  last.dispose();
  let dy = top.dx;
  for (let layer = model.config.layers - 1; layer >= 0; layer--) {
    const x = inputs.pop()!;
    const { value, dx } = backward(() => block(layer, x), x, layer, dy);
    for (const tensor of [value, x, dy]) tensor.dispose();
    dy = dx;
  }
  return { loss: top.value, gradients: adapter.parameters().map(({ name }) => byName.get(name)!) };
}
