import { gather, tensor1d, tensor2d, tidy, type Tensor, type Tensor2D, type Tensor4D } from '@tensorflow/tfjs-core';
import type { AdapterRows } from './adapter-rows.js';
import { runBlocks } from './blocks.js';
import { batchContext, embed, type Llama, type TokenBatch } from './llama.js';
import type { RopeTables } from './rope-tables.js';

/** `Attend` over the prompts; segments [B,T] (0: padding). */
export type AttendPrompts = (layer: number, q: Tensor4D, k: Tensor4D, v: Tensor4D, segments: Tensor2D, rope?: RopeTables) => Tensor;

/** Reads all prompts, padded on the right; each by its own adapter where `adapters` are given. The residual stream at each prompt's last token, [B, hidden]. */
export function readPrompts(llama: Llama, prompts: readonly (readonly number[])[], attend: AttendPrompts, adapters?: AdapterRows): Tensor2D {
  const width = Math.max(...prompts.map(({ length }) => length));
  const size = prompts.length * width;
  const batch: TokenBatch = { shape: [prompts.length, width], inputIds: new Int32Array(size), positions: new Int32Array(size), segments: new Int32Array(size) };
  prompts.forEach((prompt, row) => {
    for (let i = 0; i < prompt.length; i++) {
      batch.inputIds[row * width + i] = prompt[i];
      batch.positions[row * width + i] = i;
      batch.segments[row * width + i] = 1;
    }
  });
  return tidy(() => {
    const segments = tensor2d(batch.segments, batch.shape, 'int32');
    const branched = adapters ? { model: llama.model, adapter: adapters.branches([...prompts.keys()], width) } : llama;
    const hidden = runBlocks(llama, embed(llama.model, batch), { ...batchContext(branched, batch), attend: (layer, q, k, v, rope) => attend(layer, q, k, v, segments, rope) });
    return gather(hidden, tensor1d(prompts.map(({ length }, row) => row * width + length - 1), 'int32'));
  });
}
