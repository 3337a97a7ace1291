import type { EngineFailure } from '../engine/errors.js';

/** How an engine process can end without a result: the engine's own failures, `died` (no word from it) and `interrupted` (asked to stop). */
export type TrainerFailure = EngineFailure | 'died' | 'interrupted';

/** An engine process ended without a result. */
export class TrainerError extends Error {
  constructor(
    readonly failure: TrainerFailure,
    /** Stable and literal. */
    readonly code: string,
    message: string,
    /** Optimizer steps that this attempt took. */
    readonly steps: number,
    /** What of the job's input the failure is about, e.g. `model.uri`, `adapter`; undefined when it is about no file. */
    readonly subject?: string,
  ) {
    super(message);
    this.name = 'TrainerError';
  }
}
