/** What a LoRA adapter is, beside its numbers: PEFT's LoraConfig, as far as it is known here. https://huggingface.co/docs/peft */

/** Parts of a model that can be trained in full beside an adapter. */
export const savableModules = ['embed_tokens', 'lm_head'] as const;
export type SavableModule = (typeof savableModules)[number];

/** Which linear layers are adapted, with what rank and scale. */
export interface LoraTargets {
  /** Rank of A and B. */
  rank: number;
  /** The branch is scaled by alpha / rank. */
  alpha: number;
  /** Ranks of some modules: pattern → rank. A pattern is a regular expression for the end of a module's name, from a dot on; the first that fits counts. @default none */
  rankPattern?: Readonly<Record<string, number>>;
  /** The same for alpha. @default none */
  alphaPattern?: Readonly<Record<string, number>>;
  /** Scale by alpha / √rank instead (rank-stabilised LoRA, arXiv 2312.03732). @default false */
  useRsLora?: boolean;
  /** Ends of module names (`q_proj`); or a regular expression for whole names; or `all-linear`: every linear layer but the head. */
  targetModules: string | readonly string[];
  /** What is left out of these: ends of names, or a regular expression for whole names. @default nothing */
  excludeModules?: string | readonly string[];
  /** The blocks whose modules are adapted, counted from 0. @default all */
  layersToTransform?: readonly number[];
  /** Trained in full, as copies of their own. With tied embeddings they are no longer tied. @default none */
  modulesToSave?: readonly SavableModule[];
}

export interface LoraOptions extends LoraTargets {
  /** On the input of A, in training only. */
  dropout: number;
  /** Also train the biases of the adapted modules, or all of the model's. @default none */
  bias?: 'none' | 'lora_only' | 'all';
  /** Train the length of each row of the weights apart from its direction (DoRA, arXiv 2402.09353). @default false */
  useDora?: boolean;
  /** How A is drawn: uniform as PEFT does it by default, or normal with a deviation of 1 / rank. B is zero. @default default */
  initLoraWeights?: 'default' | 'gaussian';
}
