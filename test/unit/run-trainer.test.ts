import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { describe, expect, it } from 'vitest';
import { createRunTrainer } from '../../activities/run-trainer.js';
import { TrainerError } from '../../activities/trainer-error.js';
import type { TrainerEvent } from '../../contracts/trainer-messages.js';
import { alive, gone } from '../kit/processes.js';
import { temporaryDirectory } from '../kit/temporary.js';
import { fakeTrainer, silentLog, trainJob } from '../kit/trainer-job.js';

const directory = temporaryDirectory();
const never = new AbortController().signal;

const ignore = () => undefined;

/** Resolves to the error; a trainer that succeeds fails the test. */
const failure = (run: Promise<unknown>): Promise<TrainerError> =>
  run.then(
    () => Promise.reject(new Error('expected a failure')),
    (err: unknown) => {
      expect(err).toBeInstanceOf(TrainerError);
      return err as TrainerError;
    },
  );

describe('runTrainer', () => {
  it('returns the result and hands over the events in order, one at a time', async () => {
    const events: string[] = [];
    let busy = 0;
    const onEvent = async (event: TrainerEvent) => {
      busy += 1;
      expect(busy).toBe(1);
      await sleep(1);
      busy -= 1;
      events.push(event.event);
    };
    const result = await fakeTrainer('done')(trainJob(directory), { signal: never, onEvent, log: silentLog });
    expect(result).toMatchObject({ kind: 'train', summary: { steps: 3 } });
    expect(events).toEqual(['started', 'step', 'checkpoint', 'step', 'checkpoint', 'step', 'checkpoint', 'done']);
  });

  it('passes over lines that are not events', async () => {
    const result = await fakeTrainer('garbage')(trainJob(directory), { signal: never, onEvent: ignore, log: silentLog });
    expect(result.kind).toBe('train');
  });

  it('logs what the engine logs at its own level, and what its libraries print for debugging', async () => {
    const lines: { level: number; msg: string }[] = [];
    const log = pino({ level: 'debug' }, { write: (line) => lines.push(JSON.parse(line)) });
    await fakeTrainer('garbage')(trainJob(directory), { signal: never, onEvent: ignore, log });
    const logged = lines.map(({ level, msg }) => [pino.levels.labels[level], msg]);
    expect(logged).toContainEqual(['info', 'trainable params: 8']);
    expect(logged).toContainEqual(['debug', '{"level":"info"']);
  });

  it('reports a death as such, with the steps that were taken', async () => {
    const error = await failure(fakeTrainer('crash')(trainJob(directory), { signal: never, onEvent: ignore, log: silentLog }));
    expect(error).toMatchObject({ failure: 'died', code: 'no_result', steps: 1 });
    expect(error.message).toBe('train: the engine process ended without a result (killed by SIGKILL)');
  });

  it('quotes what a process said before it exited', async () => {
    const error = await failure(fakeTrainer('broken')(trainJob(directory), { signal: never, onEvent: ignore, log: silentLog }));
    expect(error.message).toBe('train: the engine process ended without a result (exit code 3)\ncannot load the library');
  });

  it('names a program that cannot be started', async () => {
    const run = createRunTrainer({ command: ['/nowhere/node'], watchdogMs: 1e4, graceMs: 1e4 });
    const error = await failure(run(trainJob(directory), { signal: never, onEvent: ignore, log: silentLog }));
    expect(error).toMatchObject({ failure: 'died', code: 'not_started' });
    expect(error.message).toContain('/nowhere/node');
  });

  it('keeps the failure that the engine tells', async () => {
    const error = await failure(fakeTrainer('fail-nanLoss')(trainJob(directory), { signal: never, onEvent: ignore, log: silentLog }));
    expect(error).toMatchObject({ failure: 'nanLoss', code: 'told_so', message: 'step 3: q_proj.lora_B: expected finite gradients, got NaN' });
  });

  it('kills a process that says nothing', async () => {
    const run = fakeTrainer('silent', { watchdogMs: 200 });
    const error = await failure(run(trainJob(directory), { signal: never, onEvent: ignore, log: silentLog }));
    expect(error).toMatchObject({ failure: 'died', code: 'silent', message: 'train: the engine process said nothing for 0.2 s and was killed' });
  });

  it('does not count the time a handler takes as silence', async () => {
    const run = fakeTrainer('done', { watchdogMs: 5_000 });
    let slow = true;
    const onEvent = async () => {
      if (slow) await sleep(6_000);
      slow = false;
    };
    await expect(run(trainJob(directory), { signal: never, onEvent, log: silentLog })).resolves.toMatchObject({ kind: 'train' });
  });

  it('lets a process that is told to stop hand over its checkpoint', async () => {
    const stop = new AbortController();
    const events: string[] = [];
    const onEvent = ({ event }: TrainerEvent) => {
      events.push(event);
      if (event === 'step') stop.abort();
    };
    const error = await failure(fakeTrainer('endless')(trainJob(directory), { signal: stop.signal, onEvent, log: silentLog }));
    expect(error.failure).toBe('interrupted');
    expect(events.slice(-2)).toEqual(['checkpoint', 'interrupted']);
  });

  it('kills a process that does not stop within the grace time', async () => {
    const stop = new AbortController();
    const run = fakeTrainer('deaf', { graceMs: 100 });
    const onEvent = ({ event }: TrainerEvent) => {
      if (event === 'step') stop.abort();
    };
    const error = await failure(run(trainJob(directory), { signal: stop.signal, onEvent, log: silentLog }));
    expect(error.failure).toBe('interrupted');
  });

  it('does not start when it is stopped already', async () => {
    const error = await failure(fakeTrainer('done')(trainJob(directory), { signal: AbortSignal.abort(), onEvent: ignore, log: silentLog }));
    expect(error.message).toBe('train: stopped before it started');
  });

  it('leaves nothing alive of the process group, also when the handler throws', async () => {
    let tell: (pid: number) => void;
    const told = new Promise<number>((resolve) => { tell = resolve; });
    const write = (line: string) => {
      const pid = /child (\d+)/.exec(line)?.[1];
      if (pid) tell(Number(pid));
    };
    const onEvent = async ({ event }: TrainerEvent) => {
      if (event !== 'step') return;
      await told;
      throw new Error('the store is full');
    };
    const run = fakeTrainer('parent')(trainJob(directory), { signal: never, onEvent, log: pino({ level: 'debug' }, { write }) });
    await expect(run).rejects.toThrow('the store is full');
    await gone(await told);
  });
});

describe('the engine process', () => {
  it('ends when its parent is killed', async () => {
    const parent = spawn(process.execPath, ['--import', 'tsx', new URL('../kit/parent-of-trainer.ts', import.meta.url).pathname, directory], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [line] = (await once(parent.stdout, 'data')) as [Buffer];
    const pid = Number(line.toString());
    expect(alive(pid)).toBe(true);
    parent.kill('SIGKILL');
    await gone(pid);
  });
});
