import type { LlamaConfig } from '../formats/llama-config.js';

export interface ActivationPlan {
  /** Run the blocks again in the backward pass instead of keeping what they computed. The numbers are the same. */
  recompute: boolean;
  /** One line for people. */
  description: string;
}

export interface MicroBatchSize {
  rows: number;
  /** Tokens of the longest row. */
  longest: number;
}

/**
 * Values that a position leaves behind in a block until the backward pass ends, its gradients among them: so many of the hidden
 * width, so many of the feed-forward width, so many of a row of attention scores. Measured on the composed kernels (SmolLM2-135M).
 */
const HIDDEN = 24, INTERMEDIATE = 10, SCORES = 4;
/** Share of the free memory that they may take. */
const SHARE = 0.6;

/** Decides whether a training step keeps its activations, by the memory they take in float32. */
export function planActivations(config: LlamaConfig, { rows, longest }: MicroBatchSize, freeBytes: number): ActivationPlan {
  const { hiddenSize, intermediateSize, heads, layers } = config;
  const perPosition = HIDDEN * hiddenSize + INTERMEDIATE * intermediateSize + SCORES * heads * longest;
  const bytes = rows * longest * layers * perPosition * 4;
  const recompute = bytes > freeBytes * SHARE;
  const gibibytes = (value: number): string => `${(value / 2 ** 30).toFixed(1)} GiB`;
  return {
    recompute,
    description: `activations of a micro-batch: up to ${gibibytes(bytes)}, ${gibibytes(freeBytes)} are free: ${recompute ? 'recomputed in the backward pass' : 'kept'}`,
  };
}
