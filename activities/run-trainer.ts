import type { TrainerEvent, TrainerJob, TrainerResult } from '../contracts/trainer-messages.js';

export interface RunTrainerOptions {
  /** Aborted: the child is asked to checkpoint and exit, then killed. */
  signal: AbortSignal;
  /** Called for each event in order; the next event waits for the returned promise. */
  onEvent(event: TrainerEvent): void | Promise<void>;
}

/** Runs one engine job in a child process and returns its result. */
export type RunTrainer = (job: TrainerJob, options: RunTrainerOptions) => Promise<TrainerResult>;
