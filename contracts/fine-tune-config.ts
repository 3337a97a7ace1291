import { z } from 'zod';

/** A column name to value map: one row, or the values for a template's placeholders. */
const rowSchema = z.record(z.string(), z.string());

const modelSchema = z.strictObject({
  /**
   * Where the base model is: `hf://OWNER/NAME[@REVISION][/PATH]` on the Hugging Face hub (a path names a folder or one of
   * several `.gguf` files), `file:` to a `.gguf` file or a Hugging Face directory (config.json with safetensors or PyTorch
   * weights), `s3://bucket/prefix` of either, or a built-in name (`smollm2-135m-instruct`).
   */
  uri: z.string().min(1),
});

const datasetSchema = z.strictObject({
  /**
   * One place or several, read one after the other: `hf://OWNER/NAME[@REVISION][/PATH]` on the Hugging Face hub, `file:` path
   * or `s3://` URI of .csv, .json, .jsonl or .parquet files, the text ones also compressed (.gz, .zst, .bz2), or a built-in name
   * (`wordnet-artifacts`). Paths may be patterns: `file:data/*.parquet`, `s3://bucket/2024/**`, `hf://owner/name/data/train-*`.
   */
  uri: z.union([z.string().min(1), z.array(z.string().min(1)).min(1)]),
  /** Of a repository on the hub that names no files: which of its configurations ("subsets") and splits. */
  hub: z.strictObject({
    /** @default the card's default configuration, or its only one */
    config: z.string().min(1).optional(),
    /** @default train, or the only one */
    split: z.string().min(1).optional(),
  }).optional(),
  /** File format. @default by each file's extension */
  format: z.enum(['csv', 'json', 'jsonl', 'parquet']).optional(),
  /** Column name in the run → column name in the file. @default every column under its own name */
  columns: z.record(z.string(), z.string()).optional(),
  /** Take this many of the files' rows at random: those of pandas' `sample(n=rows, random_state=seed)`, whose seed is 42 where none is given here. @default all rows */
  sample: z.strictObject({ rows: z.int().positive(), seed: z.int().nonnegative().max(0xffffffff).default(42) }).optional(),
  /** What to do with rows that occur before. @default drop */
  duplicates: z.enum(['drop', 'keep']).default('drop'),
  /**
   * The held-out test split: a share in (0,1), or a number of rows. The rows are those of datasets'
   * `train_test_split(test_size=test, seed=seed)`. @default 0.05, with seed 42
   */
  split: z
    .strictObject({
      test: z.number().positive().default(0.05),
      seed: z.int().nonnegative().default(42),
    })
    .prefault({}),
  /** What to do with rows of train whose question also occurs in test. Kept ones make the evaluation too good; the report counts them. @default refuse */
  leakage: z.enum(['refuse', 'drop', 'keep']).default('refuse'),
});

const formatSchema = z.strictObject({
  /**
   * `alpaca`: the Alpaca template around `instruction`; `chat`: the model's own chat template with `instruction` as the
   * user's turn; or an inline prompt with `{column}` placeholders.
   */
  template: z
    .union([z.enum(['alpaca', 'chat']), z.strictObject({ prompt: z.string().min(1) })])
    .default('alpaca'),
  /** The instruction of a named template, with `{column}` placeholders. Required by named templates, refused by inline ones. */
  instruction: z.string().min(1).optional(),
  /** What the model shall answer, with `{column}` placeholders. */
  response: z.string().min(1),
  /** Text after the response, before EOS, e.g. `\n### End`. @default '' */
  endMarker: z.string().default(''),
  /** Train the model's EOS after the end marker. Without it a model learns no end but the marker, or what a chat template ends the turn with. @default true */
  eos: z.boolean().default(true),
  /** Longest row in tokens; longer ones are truncated and counted. @default 256 */
  maxLength: z.int().min(8).default(256),
});

/** Names of linear layers by their ends (`q_proj`, `layers.0.mlp.up_proj`), or a regular expression for whole names. */
const modulesSchema = z.union([z.string().min(1), z.array(z.string().min(1))]);

/** Ways of PEFT to start A and B that subtract them from the base's weights. */
const changesBase = /^(pissa(_niter_\d+)?|olora|corda|loftq|lora_ga)$/;

/** What is trained, as PEFT's LoraConfig has it. What this says of PEFT is of version 0.21. */
export const loraSchema = z
  .strictObject({
    /**
     * Go on from an adapter: a PEFT directory at `file:`, `s3://` or `hf://owner/name`. The options below are its own; those that
     * are given must be the same. @default a new adapter
     */
    from: z.string().min(1).optional(),
    /** Rank of A and B. @default 8 */
    rank: z.int().positive().default(8),
    /** The branch is scaled by alpha / rank. @default 16 */
    alpha: z.number().positive().default(16),
    /** Ranks of some modules: pattern → rank. A pattern is a regular expression for the end of a module's name, from a dot on; the first that fits counts. @default none */
    rankPattern: z.record(z.string().min(1), z.int().positive()).default({}),
    /** The same for alpha. @default none */
    alphaPattern: z.record(z.string().min(1), z.number().positive()).default({}),
    /** Scale by alpha / √rank instead, so that a larger rank does not learn more slowly (rsLoRA, arXiv 2312.03732). @default false */
    useRsLora: z.boolean().default(false),
    /** Train the lengths of the weights' rows apart from their directions (DoRA, arXiv 2402.09353). @default false */
    useDora: z.boolean().default(false),
    /**
     * How A is drawn: uniform in ±1/√in, or normal with a deviation of 1/rank. B starts as zero. PEFT's other ways take their start
     * out of the base's weights, for which the adapter alone is then of no use. @default default
     */
    initLoraWeights: z
      .enum(['default', 'gaussian'], {
        error: ({ input }) => (typeof input === 'string' && changesBase.test(input) ? "expected default or gaussian, which leave the base's weights as the adapter's users have them" : undefined),
      })
      .default('default'),
    /** Dropout on the input of A. @default 0.05 */
    dropout: z.number().min(0).lt(1).default(0.05),
    /** Also train the biases of the adapted layers, or all of the base's. Few models have any: Qwen2's q, k and v do. @default none */
    bias: z.enum(['none', 'lora_only', 'all']).default('none'),
    /** The linear layers to adapt: ends of names, a regular expression for whole names, or `all-linear`: every one but the head. @default all seven of a block */
    targetModules: modulesSchema.default(['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj']),
    /** Those of them to leave out. @default none */
    excludeModules: modulesSchema.optional(),
    /** The blocks to adapt, counted from 0. @default all */
    layersToTransform: z.array(z.int().nonnegative()).optional(),
    /** Train these in full, as float32 copies; with tied embeddings they are tied no longer. @default none */
    modulesToSave: z.array(z.enum(['embed_tokens', 'lm_head'])).default([]),
    /** B learns this many times as fast as A (LoRA+, arXiv 2402.12354, which has 16). @default 1 */
    loraPlusRatio: z.number().min(1).optional(),
  })
  .superRefine(({ from, initLoraWeights, targetModules, excludeModules, layersToTransform }, context) => {
    const refuse = (path: string, message: string): void => context.addIssue({ code: 'custom', path: [path], message });
    if (from !== undefined && initLoraWeights !== 'default') refuse('initLoraWeights', `expected none with lora.from, whose weights are there, got ${initLoraWeights}`);
    for (const [path, list] of Object.entries({ targetModules, excludeModules, layersToTransform })) {
      if (Array.isArray(list) && list.length === 0) refuse(path, 'expected at least one, got []');
    }
  });

export const baseSchema = z.discriminatedUnion('dtype', [
  /** NF4, blocks of 64 with one absmax each; `doubleQuant` stores the absmax themselves in 8 bits (QLoRA, arXiv 2305.14314), which is the default. */
  z.strictObject({ dtype: z.literal('nf4'), doubleQuant: z.boolean().default(true) }),
  /** LLM.int8-style row-wise absmax int8 (arXiv 2208.07339), without outlier decomposition. */
  z.strictObject({ dtype: z.literal('int8') }),
  z.strictObject({ dtype: z.literal('bf16') }),
  z.strictObject({ dtype: z.literal('f32') }),
]);

export const trainSchema = z
  .strictObject({
    /** Passes over the train split; excludes `steps`. @default 1 */
    epochs: z.number().positive().optional(),
    /** Optimizer steps; excludes `epochs`. */
    steps: z.int().positive().optional(),
    /** Rows in a micro-batch. @default 4 */
    batchSize: z.int().positive().default(4),
    /** Micro-batches in one optimizer step; the loss is normalised by the tokens of the whole step. @default 4 */
    accumulation: z.int().positive().default(4),
    /** Peak learning rate. @default 2e-4 */
    learningRate: z.number().positive().default(2e-4),
    /** transformers' schedules of these names; `constant` begins with the warm-up, as its constant_with_warmup. @default linear */
    schedule: z.enum(['linear', 'cosine', 'constant', 'inverse_sqrt', 'warmup_stable_decay']).default('linear'),
    /** What the rate of `cosine` and `warmup_stable_decay` falls to, as a share of the peak. @default 0 */
    minLearningRateRatio: z.number().min(0).lt(1).optional(),
    /** Share of the steps in the end over which `warmup_stable_decay` lowers the rate. @default 0.2 */
    decayRatio: z.number().gt(0).max(1).optional(),
    /** Share of the steps in which the learning rate rises linearly from 0. @default 0.03 */
    warmupRatio: z.number().min(0).max(1).default(0.03),
    /** AdamW's weight decay, apart from the gradient; biases have none. @default 0 */
    weightDecay: z.number().min(0).default(0),
    /** AdamW's decay of the gradient's mean. @default 0.9 */
    beta1: z.number().min(0).lt(1).default(0.9),
    /** AdamW's decay of the squared gradient's mean. @default 0.999 */
    beta2: z.number().min(0).lt(1).default(0.999),
    /** What AdamW adds to the root of the latter. @default 1e-8 */
    epsilon: z.number().positive().default(1e-8),
    /** Clip the global gradient norm to this; 0 turns clipping off. @default 0.3 */
    maxGradNorm: z.number().min(0).default(0.3),
    /** Rows of similar length together (longest first within a mega-batch of 50 batches, as transformers does). @default true */
    groupByLength: z.boolean().default(true),
    /** Loss on the response only, or on prompt and response. @default response */
    loss: z.enum(['response', 'all']).default('response'),
    /** Evaluate on the test split at each epoch's end, or every n steps. @default epoch */
    evalEvery: z.union([z.literal('epoch'), z.int().positive()]).default('epoch'),
    /** End when `patience` evaluations in a row have not lowered the best held-out loss by more than `minDelta`. @default never */
    earlyStopping: z.strictObject({ patience: z.int().positive(), minDelta: z.number().min(0).default(0) }).optional(),
    /** The adapter of the last step, or of the evaluation with the lowest held-out loss: chosen by it, that loss is a little too good. @default last */
    keep: z.enum(['last', 'best']).default('last'),
    /** Checkpoint every n steps. @default 50 */
    checkpointEvery: z.int().positive().default(50),
    /** Recompute a block's activations in the backward pass instead of keeping them. @default false */
    checkpointing: z.boolean().default(false),
    /** Uniform noise on the embeddings in training, of magnitude alpha / √(tokens of the longest row · width) (NEFTune, arXiv 2310.05914). @default none */
    neftuneNoiseAlpha: z.number().positive().optional(),
    /** Seeds adapter init, data order, dropout and noise. @default 42 */
    seed: z.int().nonnegative().default(42),
  })
  .refine((train) => train.epochs === undefined || train.steps === undefined, {
    message: 'expected epochs or steps, got both',
    path: ['steps'],
  })
  .superRefine(({ schedule, minLearningRateRatio, decayRatio, warmupRatio }, context) => {
    const refuse = (path: string, message: string): void => context.addIssue({ code: 'custom', path: [path], message });
    if (minLearningRateRatio !== undefined && schedule !== 'cosine' && schedule !== 'warmup_stable_decay') {
      refuse('minLearningRateRatio', `expected the schedule cosine or warmup_stable_decay with it, got ${schedule}`);
    }
    if (decayRatio !== undefined && schedule !== 'warmup_stable_decay') {
      refuse('decayRatio', `expected the schedule warmup_stable_decay with it, got ${schedule}`);
    } else if (decayRatio !== undefined && warmupRatio + decayRatio > 1) {
      refuse('decayRatio', `expected at most ${1 - warmupRatio}, what train.warmupRatio leaves of the steps, got ${decayRatio}`);
    }
  });

const evaluateSchema = z.strictObject({
  /** Column values to answer for, beside the test rows; they have no reference answer. @default none */
  prompts: z.array(rowSchema).default([]),
  /** How the base is stored for evaluation, before and after training. @default as for training */
  base: baseSchema.optional(),
  /** An answer in the training format ends before this text, beside EOS. @default format.endMarker */
  stop: z.string().min(1).optional(),
  /** How many rows of the test split to answer for (their response is the reference). @default 8 */
  testRows: z.int().nonnegative().default(8),
  /** @default 64 */
  maxNewTokens: z.int().positive().default(64),
});

const byteUnits: Record<string, number> = { KB: 1e3, MB: 1e6, GB: 1e9, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 };
const sizePattern = /^(\d+(?:\.\d+)?) ?([KMG]i?B)$/;

/** Bytes of a size as configurations write it: `5GB`, `512MiB`. */
export function parseSize(size: string): number {
  const [, amount, unit] = sizePattern.exec(size) ?? [];
  return Math.round(Number(amount) * byteUnits[unit ?? '']);
}

const mergeSchema = z.strictObject({
  /** Of the merged model's weights. @default bf16 */
  dtype: z.enum(['bf16', 'f16', 'f32']).default('bf16'),
  /** Weights are cut into files of at most this size, as transformers does. @default 5GB */
  maxShardSize: z.string().refine((size) => parseSize(size) > 0, 'expected a number above 0 with KB, MB, GB, KiB, MiB or GiB, such as 5GB').default('5GB'),
  /**
   * A quantised base can be merged in two ways: onto the model's own weights, or onto the dequantised ones that the adapter was
   * trained against. Both are measured on whole test rows until about this many tokens have been read, and the better one is
   * kept. 0: nothing is measured, and the model's own weights are taken. @default 512
   */
  measureTokens: z.int().nonnegative().default(512),
});

/** Kinds of GGUF: half floats; 8 bits; llama.cpp's mixture of 4 to 6 bits. */
export const ggufTypeSchema = z.enum(['f16', 'q8_0', 'q4_k_m']);

const exportSchema = z.strictObject({
  /** Write the merged model as GGUF files too, for llama.cpp and what is built on it, and the adapter beside them. @default none */
  gguf: z
    .array(ggufTypeSchema)
    .default([])
    .refine((types) => new Set(types).size === types.length, 'expected every type once'),
});

export const hubSchema = z.strictObject({
  /** `owner/name`; made when it does not exist. */
  repo: z.string().regex(/^[\w.-]+\/[\w.-]+$/, 'expected owner/name'),
  /** What a repository that is made is. @default true */
  private: z.boolean().default(true),
  /** Branch to commit to; made when it does not exist. @default main */
  revision: z.string().min(1).default('main'),
  /** The PEFT directory, or the merged model with its GGUF files. @default adapter */
  what: z.enum(['adapter', 'merged']).default('adapter'),
});

const publishSchema = z
  .strictObject({
    /** `file:` directory or `s3://bucket/prefix`. */
    uri: z.string().min(1).optional(),
    /** A repository on the Hugging Face hub (HF_ENDPOINT), with the token of HF_TOKEN. */
    hub: hubSchema.optional(),
  })
  .refine(({ uri, hub }) => uri !== undefined || hub !== undefined, { message: 'expected uri or hub or both, got neither', path: ['uri'] });

/** The input of the `fineTune` workflow. Strict: an unknown key anywhere is an error. */
export const fineTuneConfigSchema = z.strictObject({
  /** Names the run in paths and titles. */
  name: z.string().regex(/^[a-z0-9][a-z0-9-]{0,62}$/, 'expected 1 to 63 of a-z, 0-9 and -, starting with a letter or digit'),
  model: modelSchema,
  dataset: datasetSchema,
  format: formatSchema,
  base: baseSchema.prefault({ dtype: 'nf4' }),
  lora: loraSchema.prefault({}),
  train: trainSchema.prefault({}),
  evaluate: evaluateSchema.prefault({}),
  merge: mergeSchema.prefault({}),
  export: exportSchema.prefault({}),
  /** Where the results go. Left out: they stay in the artifact store. */
  publish: publishSchema.optional(),
  /** `false`: run every stage again in this run, whatever earlier runs left. @default true */
  reuse: z.boolean().default(true),
});

/** As written by the user. */
export type FineTuneInput = z.input<typeof fineTuneConfigSchema>;
/** With every default filled in. */
export type FineTuneConfig = z.infer<typeof fineTuneConfigSchema>;
export type DatasetConfig = FineTuneConfig['dataset'];
export type LoraConfig = FineTuneConfig['lora'];
export type BaseConfig = FineTuneConfig['base'];
export type TrainConfig = FineTuneConfig['train'];
export type MergeConfig = FineTuneConfig['merge'];
export type HubConfig = NonNullable<NonNullable<FineTuneConfig['publish']>['hub']>;
export type GgufType = z.infer<typeof ggufTypeSchema>;
