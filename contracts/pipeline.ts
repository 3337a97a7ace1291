import type { ArtifactRef, NamedArtifact } from './artifact.js';
import type { FineTuneInput } from './fine-tune-config.js';
import type * as stages from './stages.js';

/** What the workflow, its clients and the UI share about a run. Types and constants only: the workflow bundle holds no zod. */

/** The stages in order. `validate` runs before them, `report` between evaluate and publish. */
export const stageNames = ['validate', 'ingest', 'format', 'baseline', 'train', 'merge', 'evaluate', 'report', 'publish'] as const;
export type StageName = (typeof stageNames)[number];

/** What a stage activity is called with. */
export interface StageRequest<Input> {
  input: Input;
  /** Makes the stage key this run's own (`reuse: false`). Left out: results are shared between runs. */
  scope?: string;
}

/** What a stage activity returns: its output and how it came about. */
export interface StageOutcome<Output> {
  /** sha256 of stage name, version, input digests and parameters. */
  key: string;
  /** True when an earlier run's result was returned. */
  reused: boolean;
  /** Seconds the stage took when it was run. */
  seconds: number;
  output: Output;
}

export type StageState = 'pending' | 'running' | 'done' | 'reused' | 'skipped' | 'failed';

export interface StageStatus {
  name: StageName;
  state: StageState;
  key?: string;
  seconds?: number;
}

/** Live figures of the training stage. */
export interface TrainProgress {
  step: number;
  steps: number;
  epoch: number;
  /** nats per token. */
  loss: number;
  evalLoss?: number;
  learningRate: number;
  tokensPerSecond: number;
  etaSeconds: number;
}

/** What a running stage tells the workflow from time to time, by the `progress` signal. */
export interface StageProgress {
  stage: StageName;
  /** What it is doing, e.g. `loading the model`. */
  phase: string;
  done: number;
  total: number;
  train?: TrainProgress;
}

/** The answer of the `status` query. */
export interface RunStatus {
  stage: StageName | 'done';
  stages: StageStatus[];
  /** Of the running stage. */
  progress?: StageProgress;
  train?: TrainProgress;
  /** What the run decided by itself, one sentence each: a halved micro-batch, a return to a checkpoint. */
  notes: string[];
  /** Name → URI of what has been made so far: adapter, merged, report, manifest. */
  artifacts: Record<string, string>;
}

/** Workflow type, query and signal by their names on the server. */
export const fineTuneWorkflow = 'fineTune';
export const statusQuery = 'status';
export const progressSignal = 'progress';

/** What the `fineTune` workflow returns. References and figures only. */
export interface FineTuneResult {
  name: string;
  stages: { name: StageName; key: string; reused: boolean; seconds: number }[];
  /** The backend that trained, one line for people. */
  backend: string;
  baseline: stages.Metrics;
  tuned: stages.Metrics;
  /** `batchSize` and `accumulation` are those used, which differ from the configured ones after an out-of-memory failure. */
  train: stages.TrainSummary & { batchSize: number; accumulation: number };
  /** Which way of merging was kept, and both as measured. */
  merge: Pick<stages.MergeOutput, 'kept' | 'measured'>;
  notes: string[];
  artifacts: {
    adapter: NamedArtifact[];
    merged: NamedArtifact[];
    /** Left out when the run exports none. */
    gguf?: stages.GgufFile[];
    report: stages.ReportOutput;
    /** JSON: Answer[], before and after. */
    baselineAnswers: ArtifactRef;
    tunedAnswers: ArtifactRef;
    /** Set when the run publishes. */
    manifest?: ArtifactRef;
    latest?: string;
    hub?: { url: string; commit: string };
  };
}

type StageActivity<Input, Output> = (request: StageRequest<Input>) => Promise<StageOutcome<Output>>;

/** The activities, under the names of the stages. */
export interface StageActivities {
  validate: StageActivity<FineTuneInput, stages.ValidateOutput>;
  ingest: StageActivity<stages.IngestInput, stages.IngestOutput>;
  format: StageActivity<stages.FormatInput, stages.FormatOutput>;
  baseline: StageActivity<stages.EvaluateInput, stages.EvaluateOutput>;
  train: StageActivity<stages.TrainInput, stages.TrainOutput>;
  merge: StageActivity<stages.MergeInput, stages.MergeOutput>;
  evaluate: StageActivity<stages.EvaluateInput, stages.EvaluateOutput>;
  report: StageActivity<stages.ReportInput, stages.ReportOutput>;
  publish: StageActivity<stages.PublishInput, stages.PublishOutput>;
}

/** Types of the failures that activities raise; the workflow decides by them what to retry. */
export const failureTypes = {
  /** Never retried; details hold every problem found. */
  invalidInput: 'InvalidInput',
  /** The micro-batch is halved and accumulation doubled. */
  outOfMemory: 'OutOfMemory',
  /** Back to the last good checkpoint once. */
  nanLoss: 'NanLoss',
  /** The child ended without a result; retried. */
  trainerDied: 'TrainerDied',
  /** The worker was told to stop; retried elsewhere. */
  workerStopped: 'WorkerStopped',
  /** A fault of the program, not of its input or surroundings; retried a few times only. */
  internal: 'Internal',
} as const;

/** One problem in the input. `path` is dotted, e.g. `lora.targetModules[2]`. */
export interface Problem {
  path: string;
  message: string;
}
