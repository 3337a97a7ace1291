/** Inputs and outputs of the stages, as schemas. One activity each; nothing here is larger than a few KB. */
import { z } from 'zod';
import { artifactRefSchema, namedArtifactSchema } from './artifact-schema.js';
import { baseSchema, fineTuneConfigSchema, ggufTypeSchema, hubSchema, loraSchema, trainSchema } from './fine-tune-config.js';

const shape = fineTuneConfigSchema.shape;
const nonNegative = z.int().nonnegative();

/** A base model, pinned by the digests of its files. */
export const modelRefSchema = z.strictObject({
  /** As the user named it. */
  uri: z.string(),
  format: z.enum(['gguf', 'safetensors', 'pytorch']),
  /** As the model's files state it: an SPDX identifier in lower case, or a name of the hub's such as `llama3.2`. */
  license: z.string().optional(),
  /** As there, e.g. `en`. */
  languages: z.array(z.string()).optional(),
  /** `owner/name` on the Hugging Face hub, where that is known. */
  hubName: z.string().optional(),
  /** `uri` is where a worker fetches the file from when its cache lacks it. */
  files: z.array(namedArtifactSchema).min(1),
  architecture: z.strictObject({
    name: z.string(),
    layers: nonNegative, hiddenSize: nonNegative, intermediateSize: nonNegative, heads: nonNegative, kvHeads: nonNegative,
    headDim: nonNegative, vocabSize: nonNegative, contextLength: nonNegative, parameters: nonNegative,
  }),
});
export type ModelRef = z.infer<typeof modelRefSchema>;

/** What the format asks of a row: engine/data/template.ts's requiredColumns and promptColumns. */
const formatColumns = {
  /** The columns that the format names, each once. */
  requiredColumns: z.array(z.string()),
  /** Those of them that its prompt names. */
  promptColumns: z.array(z.string()),
};

const filesSchema = z.union([artifactRefSchema, z.array(artifactRefSchema).min(2)]);

// validate ----------------------------------------------------------------------------------------------------------
export const validateOutputSchema = z.strictObject({
  config: fineTuneConfigSchema,
  model: modelRefSchema,
  /** The adapter that training goes on from, as `lora.from` names it. */
  startAdapter: z.array(namedArtifactSchema).optional(),
  /** The dataset's file, or its files in order, pinned by digest. */
  dataset: filesSchema,
  ...formatColumns,
});
export type ValidateOutput = z.infer<typeof validateOutputSchema>;

// ingest ------------------------------------------------------------------------------------------------------------
export const ingestInputSchema = z.strictObject({ dataset: shape.dataset, file: filesSchema, ...formatColumns });
export const rowReportSchema = z.strictObject({
  read: nonNegative,
  dropped: z.strictObject({ empty: nonNegative, duplicate: nonNegative, unsampled: nonNegative, leaked: nonNegative }),
  kept: z.strictObject({ /** Rows of train whose question is also in test. */ leaked: nonNegative }),
  train: nonNegative,
  test: nonNegative,
  /** Histogram of characters a row: `edges` has one more entry than `counts`. */
  lengths: z.strictObject({ edges: z.array(z.number()), counts: z.array(nonNegative) }),
});
export type RowReport = z.infer<typeof rowReportSchema>;
export const ingestOutputSchema = z.strictObject({
  columns: z.array(z.string()),
  /** JSONL, one object of column → string a line. */
  train: artifactRefSchema,
  test: artifactRefSchema,
  report: rowReportSchema,
});
export type IngestInput = z.infer<typeof ingestInputSchema>;
export type IngestOutput = z.infer<typeof ingestOutputSchema>;

// format ------------------------------------------------------------------------------------------------------------
export const formatInputSchema = z.strictObject({
  model: modelRefSchema, format: shape.format, loss: trainSchema.shape.loss, evaluate: shape.evaluate,
  columns: z.array(z.string()), train: artifactRefSchema, test: artifactRefSchema,
});
export const tokenReportSchema = z.strictObject({
  rows: nonNegative, tokens: nonNegative, trainedTokens: nonNegative, truncated: nonNegative, longest: nonNegative,
  /** Histogram of tokens a row. */
  lengths: z.strictObject({ edges: z.array(z.number()), counts: z.array(nonNegative) }),
});
export type TokenReport = z.infer<typeof tokenReportSchema>;
export const formatOutputSchema = z.strictObject({
  /** safetensors: input_ids I32 [tokens], loss_mask U8 [tokens] (1 = the loss counts this token), row_offsets I32 [rows + 1]. */
  train: artifactRefSchema,
  test: artifactRefSchema,
  /** JSON: EvaluationPrompt[] */
  prompts: artifactRefSchema,
  /** JSON: SamplePreview, the first train row rendered, tokenised and masked. */
  preview: artifactRefSchema,
  report: z.strictObject({ train: tokenReportSchema, test: tokenReportSchema }),
});
export type FormatInput = z.infer<typeof formatInputSchema>;
export type FormatOutput = z.infer<typeof formatOutputSchema>;

/** One question asked of the base and of the tuned model. */
export const evaluationPromptSchema = z.strictObject({
  /** The training format, up to where the answer starts. */
  prompt: z.string(), promptIds: z.array(nonNegative),
  /** The same question in the model's own format: its chat template, or `Q: …\nA:` where it has none. */
  ownPrompt: z.string(), ownPromptIds: z.array(nonNegative),
  /** The answer in the data; null for prompts of the configuration. */
  reference: z.string().nullable(),
  /** Text at which an answer in the training format ends, beside EOS; '' when there is none. */
  stop: z.string(),
});
export type EvaluationPrompt = z.infer<typeof evaluationPromptSchema>;
export const samplePreviewSchema = z.strictObject({
  rendered: z.string(),
  tokens: z.array(z.strictObject({ id: nonNegative, text: z.string(), trained: z.boolean() })),
});
export type SamplePreview = z.infer<typeof samplePreviewSchema>;

// baseline and evaluate ---------------------------------------------------------------------------------------------
export const evaluateInputSchema = z.strictObject({
  model: modelRefSchema, base: baseSchema, adapter: z.array(namedArtifactSchema).nullable(),
  test: artifactRefSchema, prompts: artifactRefSchema, maxNewTokens: z.int().positive(),
});
export const answerSchema = z.strictObject({
  /** `training`: the format that is trained; `own`: the model's own. */
  format: z.enum(['training', 'own']),
  prompt: z.string(), reference: z.string().nullable(), text: z.string(), tokens: nonNegative,
  /** Ended by EOS or the end marker, not by the token limit. */
  stopped: z.boolean(),
});
export type Answer = z.infer<typeof answerSchema>;
export const metricsSchema = z.strictObject({
  /** Mean negative log-likelihood (nats) over the test split's counted tokens. */
  evalLoss: z.number(), perplexity: z.number(), evalTokens: nonNegative,
  /** Over the answers in the training format; rougeL (F1, 0..1) over those with a reference, null without any. */
  rougeL: z.number().nullable(), meanTokens: z.number(),
  /** Share of repeated 4-grams, 0..1. */
  repetition: z.number(),
  /** Share of answers that stopped by themselves, 0..1. */
  stopRate: z.number(),
});
export type Metrics = z.infer<typeof metricsSchema>;
export const evaluateOutputSchema = z.strictObject({ metrics: metricsSchema, /** JSON: Answer[] */ answers: artifactRefSchema, backend: z.string() });
export type EvaluateInput = z.infer<typeof evaluateInputSchema>;
export type EvaluateOutput = z.infer<typeof evaluateOutputSchema>;

// train -------------------------------------------------------------------------------------------------------------
export const trainInputSchema = z.strictObject({
  model: modelRefSchema, base: baseSchema, lora: loraSchema, train: trainSchema, trainTokens: artifactRefSchema, testTokens: artifactRefSchema,
  /** A PEFT directory to go on from. @default a new adapter */
  startAdapter: z.array(namedArtifactSchema).optional(),
});
export const trainSummarySchema = z.strictObject({
  steps: nonNegative, epochs: z.number(), tokens: nonNegative, trainLoss: z.number(),
  /** The step that the adapter is of, and its held-out loss. */
  keptStep: nonNegative, evalLoss: z.number(),
  trainableParameters: nonNegative, totalParameters: nonNegative, backend: z.string(),
});
export type TrainSummary = z.infer<typeof trainSummarySchema>;
export const trainOutputSchema = z.strictObject({
  /** adapter_config.json and adapter_model.safetensors, a PEFT directory. */
  adapter: z.array(namedArtifactSchema),
  /** trainer_state.json in transformers' shape: log_history of steps and evaluations. */
  history: artifactRefSchema,
  summary: trainSummarySchema,
});
export type TrainInput = z.infer<typeof trainInputSchema>;
export type TrainOutput = z.infer<typeof trainOutputSchema>;

// merge -------------------------------------------------------------------------------------------------------------
export const mergeInputSchema = z.strictObject({
  model: modelRefSchema, base: baseSchema, adapter: z.array(namedArtifactSchema),
  test: artifactRefSchema, prompts: artifactRefSchema, merge: shape.merge, export: shape.export,
});
/** `original`: the model's own weights; `dequantized`: those the adapter was trained against. */
export const mergedOntoSchema = z.enum(['original', 'dequantized']);
export type MergedOnto = z.infer<typeof mergedOntoSchema>;
/** Both ways of merging against the unmerged model: the base as it was trained on, with the adapter. */
export const mergeMeasureSchema = z.strictObject({
  /** Tokens of test rows that were read, and those of them that the loss counts. */
  tokens: nonNegative, countedTokens: nonNegative,
  /** nats per counted token. */
  unmergedLoss: z.number(),
  ways: z.array(z.strictObject({
    onto: mergedOntoSchema,
    evalLoss: z.number(),
    /** Mean Kullback-Leibler divergence of its next-token distribution from the unmerged model's, in nats. */
    kl: z.number(),
    /** Share of counted tokens at which both find the same token likeliest, 0..1. */
    agreement: z.number(),
  })).min(1),
});
export type MergeMeasure = z.infer<typeof mergeMeasureSchema>;
/** What llama.cpp made of a file: the prompts and greedy answers of the engine, read by both. */
export const parityCheckSchema = z.discriminatedUnion('state', [
  z.strictObject({
    state: z.enum(['agrees', 'differs']),
    prompts: nonNegative,
    /** Prompts whose text llama.cpp cuts into the same tokens. */
    sameTokens: nonNegative,
    /** Tokens of answers that were compared. */
    tokens: nonNegative,
    /** Share of them at which both find the same token likeliest, 0..1. */
    agreement: z.number(),
    /** Mean Kullback-Leibler divergence of llama.cpp's next-token distribution from the engine's, in nats. */
    kl: z.number(),
    /** Largest `kl` that counts as agreement for this type of file. */
    tolerance: z.number(),
  }),
  z.strictObject({ state: z.literal('not checked'), reason: z.string() }),
]);
export type ParityCheck = z.infer<typeof parityCheckSchema>;
export const ggufFileTypeSchema = z.enum([...ggufTypeSchema.options, 'adapter']);
export const ggufFileSchema = z.strictObject({ file: namedArtifactSchema, type: ggufFileTypeSchema, check: parityCheckSchema });
export type GgufFile = z.infer<typeof ggufFileSchema>;
export const mergeOutputSchema = z.strictObject({
  /** A Hugging Face directory. */
  merged: z.array(namedArtifactSchema),
  /** Which of the two was kept, and why in one sentence. Results of earlier versions have none of what follows. */
  kept: z.strictObject({ onto: mergedOntoSchema, reason: z.string() }).optional(),
  /** Left out when nothing was measured. */
  measured: mergeMeasureSchema.optional(),
  /** As `export.gguf` asks, and the adapter. */
  gguf: z.array(ggufFileSchema).optional(),
  /** What was left out, a sentence each. */
  notes: z.array(z.string()).optional(),
});
export type MergeInput = z.infer<typeof mergeInputSchema>;
export type MergeOutput = z.infer<typeof mergeOutputSchema>;

// report ------------------------------------------------------------------------------------------------------------
export const stageTimingSchema = z.strictObject({ name: z.string(), key: z.string(), seconds: z.number() });
export const reportInputSchema = z.strictObject({
  config: fineTuneConfigSchema, model: modelRefSchema, dataset: filesSchema.optional(), ingest: ingestOutputSchema, format: formatOutputSchema,
  baseline: evaluateOutputSchema, train: trainOutputSchema, merge: mergeOutputSchema, evaluate: evaluateOutputSchema,
  /** Seconds each stage took when it was run, which may have been in an earlier run. */
  timings: z.array(stageTimingSchema),
});
export const reportOutputSchema = z.strictObject({
  html: artifactRefSchema, markdown: artifactRefSchema,
  /** README.md of the adapter's and the merged model's directory. Results of earlier versions have none. */
  cards: z.strictObject({ adapter: artifactRefSchema, merged: artifactRefSchema }).optional(),
});
export type ReportInput = z.infer<typeof reportInputSchema>;
export type ReportOutput = z.infer<typeof reportOutputSchema>;

// publish -----------------------------------------------------------------------------------------------------------
export const publishInputSchema = z.strictObject({
  /** `file:` directory or `s3://bucket/prefix`. */
  uri: z.string().optional(),
  hub: hubSchema.optional(),
  name: z.string(),
  /** `name` is the path under the published version, e.g. `adapter/adapter_config.json`. */
  files: z.array(namedArtifactSchema),
});
export const publishOutputSchema = z.strictObject({
  /** `<uri>/<name>/<version>/manifest.json`; version = first 16 hex digits of the manifest's digest over its files. */
  manifest: artifactRefSchema.optional(),
  /** `<uri>/<name>/latest.json`. */
  latest: z.string().optional(),
  /** What the repository on the hub holds now. */
  hub: z.strictObject({ url: z.string(), commit: z.string() }).optional(),
});
export type PublishInput = z.infer<typeof publishInputSchema>;
export type PublishOutput = z.infer<typeof publishOutputSchema>;
