import { ActivityFailure, ApplicationFailure, defineQuery, defineSignal, isCancellation, setHandler, workflowInfo } from '@temporalio/workflow';
import type { ArtifactRef } from '../contracts/artifact.js';
import {
  progressSignal, stageNames, statusQuery,
  type FineTuneResult, type RunStatus, type StageName, type StageOutcome, type StageProgress, type StageRequest, type StageStatus,
} from '../contracts/pipeline.js';
import { publishDetails } from './details.js';

export const status = defineQuery<RunStatus>(statusQuery);
export const progress = defineSignal<[StageProgress]>(progressSignal);

/** A stage's activity as `proxyActivities` gives it. */
export interface StageProxy<Input, Output> {
  executeWithOptions(options: { summary: string }, args: [StageRequest<Input>]): Promise<StageOutcome<Output>>;
}

type Timing = FineTuneResult['stages'][number];

/** One run of the pipeline: runs its stages in turn, and is what the `status` query and the page in the UI tell about. */
export class Run {
  readonly #status: RunStatus;
  /** Set when the run shares no results with others. The same over retries and resets of the run, so these do resume. */
  readonly #scope: string | undefined;

  constructor(alone: boolean) {
    this.#scope = alone ? workflowInfo().firstExecutionRunId : undefined;
    this.#status = { stage: 'validate', stages: stageNames.map((name) => ({ name, state: 'pending' })), artifacts: {}, notes: [] };
    setHandler(status, () => this.#status);
    setHandler(progress, (report) => this.#onProgress(report));
    this.#changed();
  }

  /**
   * Runs a stage, or gets its result from an earlier run.
   * @throws what failed, as `<stage>: <reason>` with the failure's type and details; cancellation as it is
   */
  async stage<Input, Output>(name: StageName, activity: StageProxy<Input, Output>, input: Input): Promise<Output> {
    const entry = this.#entry(name);
    entry.state = 'running';
    this.#status.stage = name;
    delete this.#status.progress;
    this.#changed();
    try {
      const request = { input, ...(this.#scope && { scope: this.#scope }) };
      const outcome = await activity.executeWithOptions({ summary: summaries[name] }, [request]);
      Object.assign(entry, { state: outcome.reused ? 'reused' : 'done', key: outcome.key, seconds: outcome.seconds });
      return outcome.output;
    } catch (error) {
      entry.state = 'failed';
      throw isCancellation(error) ? error : named(name, error);
    } finally {
      delete this.#status.progress;
      this.#changed();
    }
  }

  skip(name: StageName): undefined {
    this.#entry(name).state = 'skipped';
  }

  /** Tells where something was made. */
  made(name: string, { uri }: Pick<ArtifactRef, 'uri'>): void {
    this.#status.artifacts[name] = uri;
    this.#changed();
  }

  /** Tells what the run decided by itself. */
  note(sentence: string): void {
    this.#status.notes.push(sentence);
    this.#changed();
  }

  finish(): void {
    this.#status.stage = 'done';
    this.#changed();
  }

  notes(): string[] {
    return [...this.#status.notes];
  }

  outcomes(): Timing[] {
    return this.#status.stages.flatMap(({ name, key, state, seconds }) =>
      key === undefined || seconds === undefined ? [] : [{ name, key, seconds, reused: state === 'reused' }],
    );
  }

  /** Without `validate`, which runs every time: what the report is made from is then the same in every run. */
  timings(): Omit<Timing, 'reused'>[] {
    return this.outcomes().filter(({ name }) => name !== 'validate').map(({ name, key, seconds }) => ({ name, key, seconds }));
  }

  #entry(name: StageName): StageStatus {
    return this.#status.stages.find((stage) => stage.name === name)!;
  }

  #onProgress(report: StageProgress): void {
    if (report.stage !== this.#status.stage) return; // late: its stage is over
    this.#status.progress = report;
    if (report.train) this.#status.train = report.train;
    this.#changed();
  }

  #changed(): void {
    publishDetails(this.#status);
  }
}

/** One line each, for the run's timeline in the UI. */
const summaries: Record<StageName, string> = {
  validate: 'Check the configuration, the model and the dataset',
  ingest: 'Read, clean, sample and split the rows',
  format: 'Render the prompts and tokenise them',
  baseline: 'Measure the untouched base model',
  train: 'Train the adapter',
  merge: 'Merge the adapter into the base model',
  evaluate: 'Measure the tuned model',
  report: 'Write the report',
  publish: 'Publish adapter, model and report',
};

/** The failure inside an activity failure, said to be the stage's. */
function named(stage: StageName, error: unknown): unknown {
  const cause = error instanceof ActivityFailure ? error.cause : undefined;
  if (!(cause instanceof Error)) return error;
  const { type, details } = cause instanceof ApplicationFailure ? cause : { type: cause.name, details: undefined };
  return ApplicationFailure.create({
    message: `${stage}: ${cause.message}`, type: type ?? undefined, nonRetryable: true, details: details ?? undefined, cause,
  });
}
