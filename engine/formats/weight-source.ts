import type { LlamaConfig } from './llama-config.js';

/** Values of a tensor as they lie in a file, little-endian and row-major. */
export interface StoredTensor {
  dtype: 'f32' | 'f16' | 'bf16';
  count: number;
  /** Reads bytes from the tensor's byte `position` on. May be called again before an earlier call has ended. */
  fill(target: Uint8Array, position: number): Promise<void>;
  /** What to throw when a value is not finite: `nan_weights`. */
  notFinite(value: number, index: number): Error;
}

/** A model's weights, read one tensor at a time. Names and layouts are Hugging Face's, whatever the file's format. */
export interface WeightSource {
  readonly config: LlamaConfig;
  /** E.g. `model.layers.0.self_attn.q_proj.weight`, in the file's order. */
  names(): string[];
  /** Outermost axis first; a linear layer is [out, in]. Throws `missing_tensor` for an unknown name. */
  shape(name: string): number[];
  /** The values in row-major order, dequantised. Throws `nan_weights` when one of them is not finite. */
  read(name: string): Promise<Float32Array>;
  /** The same values as the file has them, unchecked; undefined where the file has no plain floats. */
  stored?(name: string): StoredTensor | undefined;
  close(): Promise<void>;
}
