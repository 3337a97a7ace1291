import { tidy, type Tensor2D } from '@tensorflow/tfjs-core';
import { blockForward, type BlockContext } from './block.js';
import type { BranchedModel } from './llama.js';

/** All blocks: [N, hidden] → [N, hidden]. `embedded` and what lies between are disposed. */
export function runBlocks({ model }: Pick<BranchedModel, 'model'>, embedded: Tensor2D, context: BlockContext): Tensor2D {
  let x = embedded;
  for (let layer = 0; layer < model.config.layers; layer++) {
    const input = x;
    x = tidy(() => blockForward(model, layer, input, context));
    input.dispose();
  }
  return x;
}
