import { isFinite as finite, all, tidy, type Tensor } from '@tensorflow/tfjs-core';
import { EngineError } from '../errors.js';
import { blockForward } from '../model/block.js';
import { batchContext, embed, logitsOf, type Llama, type TokenBatch } from '../model/llama.js';
import type { LoraParameter } from '../model/adapter.js';

const isAllFinite = (tensor: Tensor): boolean => tidy(() => all(finite(tensor)).dataSync()[0] !== 0);

/** The error for a loss that is not finite; names the first tensor of the forward pass that is not. */
export function lossError(llama: Llama, batch: TokenBatch, parameters: readonly LoraParameter[], step: number): EngineError {
  const parameter = parameters.find(({ variable }) => !isAllFinite(variable));
  return nanLoss(step, 'loss', parameter?.name ?? tidy(() => firstActivation(llama, batch)));
}

/** The error for a gradient that is not finite; names its parameter. */
export function gradientError(parameters: readonly LoraParameter[], gradients: readonly Tensor[], step: number): EngineError {
  const place = gradients.findIndex((gradient) => !isAllFinite(gradient));
  return nanLoss(step, 'gradient norm', place >= 0 ? `the gradient of ${parameters[place].name}` : 'the norm itself');
}

const nanLoss = (step: number, what: string, tensor: string): EngineError =>
  new EngineError('nanLoss', 'nan_loss', `step ${step}: ${what}: expected a finite number, got none; the first tensor that is not finite is ${tensor}`);

function firstActivation(llama: Llama, batch: TokenBatch): string {
  const context = batchContext(llama, batch);
  let x = embed(llama.model, batch);
  if (!isAllFinite(x)) return 'the output of model.embed_tokens';
  for (let layer = 0; layer < llama.model.config.layers; layer++) {
    x = blockForward(llama.model, layer, x, context);
    if (!isAllFinite(x)) return `the output of model.layers.${layer}`;
  }
  return isAllFinite(logitsOf(llama, x)) ? 'the loss itself' : 'the output of lm_head';
}
