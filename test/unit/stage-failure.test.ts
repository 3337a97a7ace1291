import { ApplicationFailure } from '@temporalio/common';
import { describe, expect, it } from 'vitest';
import { toStageFailure } from '../../activities/stage-failure.js';
import { TrainerError, type TrainerFailure } from '../../activities/trainer-error.js';
import { InvalidInputError } from '../../contracts/errors.js';
import { EngineError } from '../../engine/errors.js';
import { StoreError } from '../../store/store-error.js';

const failed = (error: unknown, attempt = 1) => toStageFailure(error, 'train', attempt) as ApplicationFailure;
const trainer = (failure: TrainerFailure, steps = 0) => new TrainerError(failure, 'code', 'what happened', steps);

describe('toStageFailure', () => {
  it('never retries bad input, and keeps every problem', () => {
    const problems = [{ path: 'a', message: 'x' }, { path: 'b[1]', message: 'y' }];
    expect(failed(new InvalidInputError(problems))).toMatchObject({
      type: 'InvalidInput', nonRetryable: true, message: 'a: x\nb[1]: y', details: [problems],
    });
  });

  it.each([
    ['truncated', 'model.uri'],
    ['chat_template', 'format.template'],
    ['other', 'train'],
  ])('says of the engine\'s refusal %s where in the input it is, or in which stage', (code, path) =>
    expect(failed(new EngineError('invalidInput', code, 'expected 10, got 9'))).toMatchObject({
      type: 'InvalidInput', details: [[{ path, message: 'expected 10, got 9' }]],
    }));

  it('names the artifact that the engine could not use, not the model', () =>
    expect(failed(new TrainerError('invalidInput', 'truncated', 'test.safetensors: file: expected 9 bytes, got 8', 0, 'test tokens'))).toMatchObject({
      type: 'InvalidInput', details: [[{ path: 'test tokens', message: 'test.safetensors: file: expected 9 bytes, got 8' }]],
    }));

  it.each(['no_bucket', 'denied', 'bad_uri'] as const)('takes %s of a store as bad input', (code) =>
    expect(failed(new StoreError(code, 's3://b', 'no such bucket'))).toMatchObject({ type: 'InvalidInput', nonRetryable: true }));

  it.each(['unreachable', 'failed'] as const)('leaves %s of a store to the retry policy', (code) =>
    expect(failed(new StoreError(code, 's3://b', 'timed out'), 50)).not.toBeInstanceOf(ApplicationFailure));

  it.each([['outOfMemory', 'OutOfMemory'], ['nanLoss', 'NanLoss']] as const)('hands %s to the workflow', (failure, type) =>
    expect(failed(trainer(failure))).toMatchObject({ type, nonRetryable: true, message: 'what happened' }));

  it('retries a dead engine process, as long as attempts get somewhere', () => {
    expect(failed(trainer('died', 7), 50)).toMatchObject({ type: 'TrainerDied', nonRetryable: false });
    expect(failed(trainer('died', 0), 4)).toMatchObject({ type: 'TrainerDied', nonRetryable: false });
    expect(failed(trainer('died', 0), 5)).toMatchObject({ type: 'TrainerDied', nonRetryable: true });
  });

  it.each([
    ['an engine fault', trainer('internal')],
    ['a programming error', new TypeError('x is not a function')],
  ])('gives up on %s at the third attempt', (_, error) => {
    expect(failed(error, 2)).toMatchObject({ type: 'Internal', nonRetryable: false });
    expect(failed(error, 3)).toMatchObject({ type: 'Internal', nonRetryable: true });
  });

  it('takes a failed fetch for what it is: the network', () => {
    const error = new TypeError('fetch failed', { cause: new Error('ECONNREFUSED') });
    expect(failed(error, 50)).toBe(error);
  });
});
