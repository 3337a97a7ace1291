import type { LlamaConfig } from './llama-config.js';

/** A model's weights, read one tensor at a time. Names and layouts are Hugging Face's, whatever the file's format. */
export interface WeightSource {
  readonly config: LlamaConfig;
  /** E.g. `model.layers.0.self_attn.q_proj.weight`, in the file's order. */
  names(): string[];
  /** Outermost axis first; a linear layer is [out, in]. Throws `missing_tensor` for an unknown name. */
  shape(name: string): number[];
  /** The values in row-major order, dequantised. Throws `nan_weights` when one of them is not finite. */
  read(name: string): Promise<Float32Array>;
  close(): Promise<void>;
}
