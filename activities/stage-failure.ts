import { ApplicationFailure } from '@temporalio/common';
import { z } from 'zod';
import { failureTypes, type Problem } from '../contracts/pipeline.js';
import { InvalidInputError } from '../contracts/errors.js';
import { EngineError } from '../engine/errors.js';
import { StoreError } from '../store/store-error.js';
import { TrainerError } from './trainer-error.js';

/** What the engine refuses, by its code → the place in the input that names it; anything else is told by its stage. */
const inputPaths: Record<string, string> = {
  ...Object.fromEntries(
    ['missing_file', 'wrong_magic', 'truncated', 'bad_header', 'unsupported', 'missing_tensor', 'wrong_shape', 'nan_weights'].map((code) => [code, 'model.uri']),
  ),
  chat_template: 'format.template',
  bad_template: 'format.template',
  gguf_unsupported: 'export.gguf',
  too_many_tokens: 'dataset.sample',
};

/** Faults of the program are retried this many times in all, in case they are not. */
const internalAttempts = 3;
/** An engine process may die this often in a row without having taken a single step. */
const deathsWithoutStep = 5;

/**
 * Translates what a stage threw into the failure that the workflow and the retry policy decide by. Anything not listed here
 * (a store out of reach, a full disk) is retried for as long as the stage's retry policy says.
 * @param attempt 1 for the first
 */
export function toStageFailure(error: unknown, stage: string, attempt: number): Error {
  if (error instanceof ApplicationFailure) return error;
  if (error instanceof InvalidInputError) return invalidInput(error.problems, error);
  if (error instanceof EngineError) return engineFailure(error.failure, error, stage, attempt);
  if (error instanceof StoreError && (error.code === 'no_bucket' || error.code === 'denied' || error.code === 'bad_uri')) {
    return invalidInput([{ path: error.subject, message: error.detail }], error);
  }
  if (error instanceof TrainerError) {
    if (error.failure === 'died') {
      return fail(failureTypes.trainerDied, error, error.steps === 0 && attempt >= deathsWithoutStep);
    }
    if (error.failure !== 'interrupted') return engineFailure(error.failure, error, stage, attempt);
  }
  if (error instanceof z.ZodError || isProgrammingError(error)) {
    return fail(failureTypes.internal, error as Error, attempt >= internalAttempts);
  }
  return error instanceof Error ? error : new Error(String(error));
}

function engineFailure(failure: EngineError['failure'], error: EngineError | TrainerError, stage: string, attempt: number): ApplicationFailure {
  if (failure === 'invalidInput') {
    const subject = error instanceof TrainerError ? error.subject : undefined;
    return invalidInput([{ path: subject ?? inputPaths[error.code] ?? stage, message: error.message }], error);
  }
  if (failure === 'internal') return fail(failureTypes.internal, error, attempt >= internalAttempts);
  // The workflow changes the batch, or goes back to a checkpoint, before it tries again.
  return fail(failure === 'outOfMemory' ? failureTypes.outOfMemory : failureTypes.nanLoss, error, true);
}

function invalidInput(problems: readonly Problem[], cause: Error): ApplicationFailure {
  const message = problems.map(({ path, message }) => `${path}: ${message}`).join('\n');
  return ApplicationFailure.create({ type: failureTypes.invalidInput, nonRetryable: true, message, details: [problems], cause });
}

function fail(type: string, cause: Error, nonRetryable: boolean): ApplicationFailure {
  return ApplicationFailure.create({ type, nonRetryable, message: cause.message, cause });
}

/** `TypeError: fetch failed` and its like carry the network's failure as their cause. */
const isProgrammingError = (error: unknown) =>
  error instanceof ReferenceError || error instanceof SyntaxError || error instanceof RangeError || (error instanceof TypeError && error.cause === undefined);
