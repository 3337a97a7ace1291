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

/** The answer of the `status` query. */
export interface RunStatus {
  stage: StageName | 'done';
  stages: StageStatus[];
  train?: TrainProgress;
  /** Name → URI of what has been made so far: adapter, merged, report, manifest. */
  artifacts: Record<string, string>;
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
} as const;

/** One problem in the input. `path` is dotted, e.g. `lora.targetModules[2]`. */
export interface Problem {
  path: string;
  message: string;
}
