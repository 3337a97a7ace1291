/** The shape and constants of a LLaMA: what `config.json` or a GGUF's metadata say, under one set of names. */
export interface LlamaConfig {
  /** `llama`. */
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
  /** Longest sequence in tokens. */
  contextLength: number;
  /** Base of the rotary frequencies. */
  ropeTheta: number;
  rmsNormEps: number;
  /** The output matrix is the embedding; there is no `lm_head.weight`. */
  tiedEmbeddings: boolean;
  bosTokenId?: number;
  /** Tokens that end an answer; empty when the model names none. */
  eosTokenIds: number[];
}
