import type { Tensor } from '@tensorflow/tfjs-core';
import type { LlamaConfig } from '../../formats/llama-config.js';
import type { LoraOptions } from '../../formats/lora-options.js';
import type { LlamaModel } from '../load.js';

/** What the first values of a parameter may depend on. */
export interface Origin {
  seed: number;
  /** The frozen model, which what is a copy of some part of it starts from. */
  model: () => LlamaModel;
}

/** A tensor that an option makes trainable. */
export interface PlannedParameter {
  /** In PEFT's file; also names its random stream. */
  name: string;
  shape: number[];
  /** Its values before the first step. */
  initial(origin: Origin): Tensor;
}

/** One option of an adapter: the trainable tensors that it adds, none where it is off. */
export type Variant = (config: LlamaConfig, options: LoraOptions) => PlannedParameter[];
