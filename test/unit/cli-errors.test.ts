import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { WorkflowFailedError } from '@temporalio/client';
import { ActivityFailure, ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { InvalidInputError } from '../../contracts/errors.js';
import { CliError } from '../../cli/cli-error.js';
import { connect } from '../../cli/connect.js';
import { describeError } from '../../cli/describe-error.js';
import { readConfigFile } from '../../cli/read-config-file.js';

const problems = [{ path: 'lora.rank', message: 'expected 1 or more, got 0' }, { path: 'dataset.uri', message: 'missing, expected a string' }];

describe('describeError', () => {
  it('lists every problem of wrong input by its path and exits with 2', () => {
    expect(describeError(new InvalidInputError(problems))).toEqual({
      exitCode: 2,
      message: 'The input has 2 problems:\n  lora.rank: expected 1 or more, got 0\n  dataset.uri: missing, expected a string',
      problems,
    });
  });

  it('finds the problems in the failure of a workflow', () => {
    const failure = ApplicationFailure.create({ type: 'InvalidInput', message: 'validate: 2 problems', details: [problems] });
    const described = describeError(new WorkflowFailedError('failed', failure, 'NON_RETRYABLE_FAILURE'));
    expect(described).toMatchObject({ exitCode: 2, problems });
  });

  it('names the stage that failed', () => {
    const inner = ApplicationFailure.create({ message: 'loss is NaN at step 12' });
    const failure = new ActivityFailure('activity failed', 'train', '7', 'NON_RETRYABLE_FAILURE', undefined, inner);
    expect(describeError(new WorkflowFailedError('failed', failure, 'NON_RETRYABLE_FAILURE'))).toEqual({ exitCode: 1, message: 'train: loss is NaN at step 12' });
  });

  it('tells a cancelled run from a failed one', () => {
    expect(describeError(new WorkflowFailedError('failed', new CancelledFailure('x'), 'NON_RETRYABLE_FAILURE')).message).toBe('The run was cancelled');
  });
});

describe('reading a configuration', () => {
  let directory: string;
  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'temper-cli-'));
  });
  afterAll(() => rm(directory, { recursive: true }));

  it('names a file that is not there', async () => {
    await expect(readConfigFile(join(directory, 'none.json'))).rejects.toThrow(/none\.json: expected a readable file, got ENOENT/);
  });

  it('says that a file is not JSON', async () => {
    const file = join(directory, 'broken.json');
    await writeFile(file, '{');
    await expect(readConfigFile(file)).rejects.toThrow(/broken\.json: expected JSON, got /);
    await expect(readConfigFile(file)).rejects.toBeInstanceOf(CliError);
  });

  it('reports the problems before anything is started', async () => {
    const file = join(directory, 'wrong.json');
    await writeFile(file, '{"name":"a","colour":"red"}');
    await expect(readConfigFile(file)).rejects.toBeInstanceOf(InvalidInputError);
  });
});

it('says which server does not answer and how to start one, and exits with 3', async () => {
  // Port 1 is reserved and nothing listens there.
  const error: unknown = await connect({ TEMPORAL_ADDRESS: '127.0.0.1:1' }).catch((caught: unknown) => caught);
  const { exitCode, message } = describeError(error);
  expect(exitCode).toBe(3);
  expect(message).toMatch(/^127\.0\.0\.1:1: expected a Temporal server, got .*\nStart one with: npm run dev$/);
});
