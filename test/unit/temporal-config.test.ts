import { homedir } from 'node:os';
import { writeFileSync } from 'node:fs';
import { delimiter, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, it } from 'vitest';
import { InvalidInputError } from '../../contracts/errors.js';
import { loadConfig } from '../../temporal.config.js';
import { temporaryDirectory } from '../kit/temporary.js';

const directory = temporaryDirectory();

/** The machine's own temporal.toml must not matter. */
const noFile = { TEMPORAL_CONFIG_FILE: join(directory, 'none.toml') };
writeFileSync(noFile.TEMPORAL_CONFIG_FILE, '[profile.default]\n');

const problems = (env: NodeJS.ProcessEnv): string => {
  try {
    loadConfig({ ...noFile, ...env });
  } catch (err) {
    if (err instanceof InvalidInputError) return err.message;
    throw err;
  }
  throw new Error('expected a refusal');
};

describe('loadConfig', () => {
  it('needs no variable at all', () =>
    expect(loadConfig(noFile)).toMatchObject({
      temporal: { address: 'localhost:7233', namespace: 'default' },
      taskQueues: { orchestration: 'temper', gpu: 'temper-gpu' },
      store: pathToFileURL(resolve('.temper/store')).href,
      cacheDirectory: resolve('.temper/cache'),
      dataRoots: [resolve('.')],
      backend: undefined,
      logLevel: 'info',
    }));

  it('takes every value from the environment', () =>
    expect(
      loadConfig({
        ...noFile,
        TEMPORAL_ADDRESS: 'temporal:7233', TEMPORAL_NAMESPACE: 'tuning',
        TEMPER_TASK_QUEUE: 'blue', TEMPER_STORE: 's3://bucket/prefix', TEMPER_CACHE: '~/cache',
        TEMPER_DATA_ROOTS: ['/data', 'more'].join(delimiter), TEMPER_BACKEND: 'wasm',
        TEMPER_MAX_ACTIVITIES: '8', TEMPER_MAX_CACHED_WORKFLOWS: '10',
        TEMPER_WATCHDOG_SECONDS: '30', TEMPER_GRACE_SECONDS: '5', TEMPER_KEEP_CHECKPOINTS: '3', TEMPER_LOG_LEVEL: 'debug',
      }),
    ).toMatchObject({
      temporal: { address: 'temporal:7233', namespace: 'tuning', connection: { address: 'temporal:7233' } },
      taskQueues: { orchestration: 'blue', gpu: 'blue-gpu' },
      store: 's3://bucket/prefix',
      cacheDirectory: join(homedir(), 'cache'),
      dataRoots: ['/data', resolve('more')],
      backend: 'wasm',
      workers: { maxActivities: 8, maxCachedWorkflows: 10 },
      trainer: { watchdogSeconds: 30, graceSeconds: 5, keepCheckpoints: 3 },
      logLevel: 'debug',
    }));

  it('connects by the profile of a temporal.toml', () => {
    const file = join(directory, 'temporal.toml');
    writeFileSync(file, '[profile.prod]\naddress = "prod:7233"\nnamespace = "prod"\n');
    expect(loadConfig({ TEMPORAL_CONFIG_FILE: file, TEMPORAL_PROFILE: 'prod' }).temporal).toMatchObject({ address: 'prod:7233', namespace: 'prod' });
  });

  it('takes an empty variable as unset', () => expect(loadConfig({ ...noFile, TEMPER_BACKEND: '', TEMPER_GRACE_SECONDS: '' }).backend).toBeUndefined());

  it('refuses all bad values at once, each by its name', () =>
    expect(
      problems({
        TEMPER_STORE: 'ftp://host', TEMPER_BACKEND: 'gpu', TEMPER_WATCHDOG_SECONDS: '0', TEMPER_GRACE_SECONDS: '1m', TEMPER_TASK_QUEUE: 'a b',
        TEMPER_LOG_LEVEL: 'loud',
      }).split('\n').sort(),
    ).toEqual([
      'TEMPER_BACKEND: expected cuda, tensorflow, wasm or cpu, got "gpu"',
      'TEMPER_GRACE_SECONDS: expected a whole number, got "1m"',
      'TEMPER_LOG_LEVEL: expected trace, debug, info, warn, error or silent, got "loud"',
      'TEMPER_STORE: expected file:DIRECTORY or s3://BUCKET/PREFIX, got "ftp://host"',
      'TEMPER_TASK_QUEUE: expected letters, digits, ".", "_" and "-", got "a b"',
      'TEMPER_WATCHDOG_SECONDS: expected 1 or more, got "0"',
    ]));

  it('says which file has a bad connection profile', () =>
    expect(problems({ TEMPORAL_PROFILE: 'nope' })).toContain(`${noFile.TEMPORAL_CONFIG_FILE}: expected a usable connection profile`));
});
