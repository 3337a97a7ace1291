/**
 * The engine child's protocol: the parent writes one JSON line (a job) to stdin and keeps stdin open for as long as it
 * lives; the child answers with NDJSON events on stdout, the last of which is `done`, `interrupted` or `failed`. When stdin
 * ends the parent is gone, and the child exits. SIGTERM: checkpoint, `interrupted`, exit.
 */
import { z } from 'zod';
import {
  answerSchema, evaluationPromptSchema, ggufFileTypeSchema, mergedOntoSchema, mergeMeasureSchema, metricsSchema, modelRefSchema, parityCheckSchema, trainSummarySchema,
} from './stages.js';
import { baseSchema, fineTuneConfigSchema, loraSchema, trainSchema } from './fine-tune-config.js';

const directory = z.string().min(1);
const common = {
  /** Backend to use. @default the best available */
  backend: z.enum(['cuda', 'tensorflow', 'wasm', 'cpu']).optional(),
  /** Local directory with the model's files under their names. */
  modelDirectory: directory,
  model: modelRefSchema,
};

export const trainerJobSchema = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.literal('train'), ...common, base: baseSchema, lora: loraSchema, train: trainSchema,
    /** Local token files as `format` writes them. */
    trainTokens: z.string(), testTokens: z.string(),
    /** A PEFT directory to start from. @default a new adapter */
    adapterDirectory: directory.optional(),
    /** Directory of a complete checkpoint to go on from. */
    resumeFrom: directory.optional(),
    /** Checkpoints go to `<outputDirectory>/checkpoint-<step, 8 digits>`, the adapter to `<outputDirectory>/adapter`. */
    outputDirectory: directory,
  }),
  z.strictObject({
    kind: z.literal('evaluate'), ...common, base: baseSchema, adapterDirectory: directory.optional(),
    testTokens: z.string(), prompts: z.array(evaluationPromptSchema), maxNewTokens: z.int().positive(),
    /** Rows a batch. */
    batchSize: z.int().positive().default(16),
  }),
  z.strictObject({
    kind: z.literal('merge'), ...common, base: baseSchema, adapterDirectory: directory,
    testTokens: z.string(), prompts: z.array(evaluationPromptSchema), merge: fineTuneConfigSchema.shape.merge, export: fineTuneConfigSchema.shape.export,
    /** Where node-llama-cpp is installed; left out: the GGUF files are not checked. */
    llamaCpp: directory.optional(),
    /** The result's directory and files are in this one. */
    outputDirectory: directory,
  }),
]);
export type TrainerJob = z.infer<typeof trainerJobSchema>;

export const trainerEventSchema = z.discriminatedUnion('event', [
  /** The backend is chosen; `message` is one line for people. */
  z.strictObject({ event: z.literal('started'), backend: z.string(), message: z.string() }),
  /** Anything that takes a while beside steps: loading, evaluating, generating, writing. */
  z.strictObject({ event: z.literal('progress'), phase: z.string(), done: z.number(), total: z.number() }),
  z.strictObject({
    event: z.literal('step'), step: z.int(), steps: z.int(), epoch: z.number(), loss: z.number(), learningRate: z.number(),
    gradNorm: z.number(), tokens: z.int(), tokensPerSecond: z.number(), etaSeconds: z.number(),
  }),
  z.strictObject({ event: z.literal('eval'), step: z.int(), epoch: z.number(), loss: z.number(), tokens: z.int() }),
  /** The directory is complete; the parent stores it and may then delete it. */
  z.strictObject({ event: z.literal('checkpoint'), step: z.int(), directory }),
  z.strictObject({ event: z.literal('interrupted'), step: z.int() }),
  z.strictObject({
    event: z.literal('done'),
    result: z.discriminatedUnion('kind', [
      z.strictObject({ kind: z.literal('train'), adapterDirectory: directory, historyFile: z.string(), summary: trainSummarySchema }),
      z.strictObject({ kind: z.literal('evaluate'), metrics: metricsSchema, answers: z.array(answerSchema), backend: z.string() }),
      z.strictObject({
        kind: z.literal('merge'), directory, kept: z.strictObject({ onto: mergedOntoSchema, reason: z.string() }), measured: mergeMeasureSchema.optional(),
        gguf: z.array(z.strictObject({ path: z.string(), type: ggufFileTypeSchema, check: parityCheckSchema })),
        /** What was left out, a sentence each. */
        notes: z.array(z.string()),
      }),
    ]),
  }),
  z.strictObject({
    event: z.literal('failed'),
    /** Decides the retry; see contracts/pipeline.ts failureTypes. */
    failure: z.enum(['invalidInput', 'outOfMemory', 'nanLoss', 'internal']),
    code: z.string(),
    message: z.string(),
    /** The file that cannot be used, when it is one. */
    file: z.string().optional(),
  }),
]);
export type TrainerEvent = z.infer<typeof trainerEventSchema>;
export type TrainerResult = Extract<TrainerEvent, { event: 'done' }>['result'];
