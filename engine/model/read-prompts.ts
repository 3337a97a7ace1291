import { dispose, gather, tensor1d, tensor2d, tidy, type Tensor, type Tensor1D, type Tensor2D, type Tensor3D, type Tensor4D } from '@tensorflow/tfjs-core';
import { replay, type Computation } from '../tensor/replay.js';
import type { AdapterRows } from './adapter-rows.js';
import { runBlocks } from './blocks.js';
import { blockContext, embedIds, type Llama } from './llama.js';
import { ropeTables, type RopeTables } from './rope-tables.js';

/** `Attend` over the prompts; segments [B,T] (0: padding). */
export type AttendPrompts = (layer: number, q: Tensor4D, k: Tensor4D, v: Tensor4D, segments: Tensor2D, rope?: RopeTables) => Tensor;

export interface ReadPromptsOptions {
  /** Each prompt by its own adapter, instead of the llama's. */
  adapters?: AdapterRows;
  /** Prompts of the same shape may be read by a recording: what tells one from those of others, and what it reads where it is. @default never */
  recording?: Pick<Computation, 'key' | 'parameters'>;
}

/** Reads all prompts, padded on the right. The residual stream at each prompt's last token, [B, hidden]. */
export function readPrompts(llama: Llama, prompts: readonly (readonly number[])[], attend: AttendPrompts, { adapters, recording }: ReadPromptsOptions = {}): Tensor2D {
  const width = Math.max(...prompts.map(({ length }) => length)), shape: [number, number] = [prompts.length, width];
  const compute = ([ids, segments, last, cos, sin]: Tensor[]): Tensor[] => {
    const branched = adapters ? { model: llama.model, adapter: adapters.branches([...prompts.keys()], width) } : llama;
    const context = blockContext(branched, { shape, segments: segments as Tensor2D, rope: { cos: cos as Tensor3D, sin: sin as Tensor3D } });
    const hidden = runBlocks(llama, embedIds(llama.model, ids as Tensor2D), { ...context, attend: (layer, q, k, v, rope) => attend(layer, q, k, v, segments as Tensor2D, rope) });
    return [gather(hidden, last as Tensor1D)];
  };
  const inputs = tidy(() => tensorsOf(llama, prompts, shape));
  try {
    const [hidden] = recording ? replay({ ...recording, inputs, draw: { step: 0, stream: 0 }, compute }) : tidy(() => compute(inputs));
    return hidden as Tensor2D;
  } finally {
    dispose(inputs);
  }
}

/** Ids [B,T], segments [B,T], the place of each prompt's last token [B], and its positions' angles. */
function tensorsOf({ model }: Llama, prompts: readonly (readonly number[])[], shape: [number, number]): Tensor[] {
  const [count, width] = shape;
  const ids = new Int32Array(count * width), positions = new Int32Array(count * width), segments = new Int32Array(count * width);
  prompts.forEach((prompt, row) => {
    for (let i = 0; i < prompt.length; i++) {
      ids[row * width + i] = prompt[i];
      positions[row * width + i] = i;
      segments[row * width + i] = 1;
    }
  });
  const last = prompts.map(({ length }, row) => row * width + length - 1), { cos, sin } = ropeTables(model.config, positions, shape);
  return [tensor2d(ids, shape, 'int32'), tensor2d(segments, shape, 'int32'), tensor1d(last, 'int32'), cos, sin];
}
