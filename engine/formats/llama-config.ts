import type { RopeScaling } from './rope-scaling.js';

/** The linear layers of a block, in the order of the forward pass. */
export const blockModules = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'] as const;
export type BlockModule = (typeof blockModules)[number];

/**
 * The shape and constants of a LLaMA or of a model built like one: what `config.json` or a GGUF's metadata say, under one set of
 * names. What only some families have is optional; without it a model is a plain LLaMA.
 */
export interface LlamaConfig {
  /** `modelType` of one of `architectures`: `llama`, `mistral`, `qwen2` … */
  architecture: string;
  vocabSize: number;
  /** Width of the residual stream. */
  hiddenSize: number;
  /** Width of the feed-forward network. */
  intermediateSize: number;
  layers: number;
  /** Query heads. */
  heads: number;
  /** Key and value heads; divides `heads`. */
  kvHeads: number;
  /** Width of one head; all of it is rotated. */
  headDim: number;
  /** Longest sequence in tokens, with what `ropeScaling` adds. */
  contextLength: number;
  /** Base of the rotary frequencies. */
  ropeTheta: number;
  /** How the rotary frequencies are changed for contexts longer than the model was first trained on. @default not at all */
  ropeScaling?: RopeScaling;
  /** Layers whose queries and keys are not rotated. @default none */
  unrotatedLayers?: readonly number[];
  /** Attention that sees the last `size` positions alone, its own included. @default all of the past */
  slidingWindow?: {
    size: number;
    /** @default all layers */
    layers?: readonly number[];
  };
  /** Linear layers that add a bias. @default none */
  biases?: readonly BlockModule[];
  /** Queries and keys are normalised (RMSNorm over a head) before they are rotated. @default false */
  qkNorm?: boolean;
  rmsNormEps: number;
  /** The output matrix is the embedding; there is no `lm_head.weight`. */
  tiedEmbeddings: boolean;
  bosTokenId?: number;
  /** Tokens that end an answer; empty when the model names none. */
  eosTokenIds: number[];
}

/** How many positions the attention of a layer sees; undefined when it sees all of the past. */
export function windowOf({ slidingWindow }: LlamaConfig, layer: number): number | undefined {
  if (!slidingWindow) return undefined;
  return slidingWindow.layers === undefined || slidingWindow.layers.includes(layer) ? slidingWindow.size : undefined;
}
