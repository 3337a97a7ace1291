/** What a failure means for whoever runs the engine: the kinds that a retry policy tells apart. */
export type EngineFailure = 'invalidInput' | 'outOfMemory' | 'nanLoss' | 'internal';

/** An engine error: `code` is stable and literal, the message reads "subject: expected X, got Y". */
export class EngineError extends Error {
  constructor(
    readonly failure: EngineFailure,
    readonly code: string,
    message: string,
  ) {
    super(message);
    this.name = 'EngineError';
  }
}
