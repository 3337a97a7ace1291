import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { Logger } from 'pino';
import { z } from 'zod';
import { trainerEventSchema, type TrainerEvent, type TrainerJob, type TrainerResult } from '../contracts/trainer-messages.js';
import { TrainerError } from './trainer-error.js';

export interface RunTrainerOptions {
  /** Aborted: the process is asked to checkpoint and exit, and killed when it takes too long. */
  signal: AbortSignal;
  /** Called for each event in order; the next event waits for the returned promise. */
  onEvent(event: TrainerEvent): void | Promise<void>;
  log: Logger;
}

/**
 * Runs one engine job in a process of its own and returns its result.
 * @throws TrainerError when it ends in any other way
 */
export type RunTrainer = <Kind extends TrainerJob['kind']>(
  job: Extract<TrainerJob, { kind: Kind }>,
  options: RunTrainerOptions,
) => Promise<Extract<TrainerResult, { kind: Kind }>>;

export interface TrainerLaunch {
  /** Program and arguments. */
  command: [string, ...string[]];
  env?: NodeJS.ProcessEnv;
  /** A process that reports nothing for this long is killed. */
  watchdogMs: number;
  /** Time between the request to stop and the kill: long enough for a checkpoint. */
  graceMs: number;
}

/** Lines of stderr that are kept to explain a death. */
const keptLines = 20;

/**
 * Makes a `RunTrainer`. The process leads a process group of its own, which is killed on every way out, so nothing that it
 * started outlives the attempt; its stdin stays open for as long as this process lives, and it exits when stdin ends, so it
 * does not outlive a killed worker either.
 */
export function createRunTrainer({ command: [program, ...args], env, watchdogMs, graceMs }: TrainerLaunch): RunTrainer {
  const run = async (job: TrainerJob, { signal, onEvent, log }: RunTrainerOptions): Promise<TrainerResult> => {
    if (signal.aborted) throw new TrainerError('interrupted', 'interrupted', `${job.kind}: stopped before it started`, 0);
    const child = spawn(program, args, { detached: true, stdio: ['pipe', 'pipe', 'pipe'], env: env ?? process.env });
    const exited = once(child, 'close').catch((err: unknown) => [undefined, undefined, err] as const);
    child.stdin.on('error', () => {}); // it died before reading the job: `exited` tells
    child.stdin.write(`${JSON.stringify(job)}\n`);

    const lastWords = collectStderr(child, log);
    let steps = 0;
    let silent = false;
    const watchdog = createWatchdog(watchdogMs, () => {
      silent = true;
      killGroup(child);
    });
    const stop = onceAborted(signal, () => {
      child.kill('SIGTERM');
      return setTimeout(() => killGroup(child), graceMs);
    });
    const died = (code: string, message: string) =>
      new TrainerError('died', code, [`${job.kind}: ${message}`, ...lastWords].join('\n'), steps);

    try {
      for await (const line of createInterface({ input: child.stdout })) {
        const event = parseLine(trainerEventSchema, line);
        if (!event) {
          log.warn({ line: line.slice(0, 2000) }, 'the engine process printed something that is not an event');
          continue;
        }
        if (event.event === 'step') steps += 1;
        watchdog.pause(); // what the handler takes (an upload) is not the engine's silence
        await onEvent(event);
        watchdog.restart();
        if (event.event === 'done' && event.result.kind === job.kind) return event.result;
        if (event.event === 'done') throw died('wrong_result', `expected the result of ${job.kind}, got ${event.result.kind}`);
        if (event.event === 'interrupted') {
          const message = `${job.kind}: stopped at step ${event.step}, its checkpoint is stored`;
          throw signal.aborted
            ? new TrainerError('interrupted', 'interrupted', message, steps)
            : died('stopped_from_outside', `the engine process was told to stop by someone else, at step ${event.step}`);
        }
        if (event.event === 'failed') throw new TrainerError(event.failure, event.code, event.message, steps, subjectOf(job, event.file));
      }
      const [code, killedBy, spawnError] = (await exited) as [number | null, string | null, unknown?];
      if (signal.aborted) throw new TrainerError('interrupted', 'interrupted', `${job.kind}: stopped`, steps);
      if (spawnError) throw died('not_started', `cannot start ${program}: ${String(spawnError)}`);
      if (silent) throw died('silent', `the engine process said nothing for ${watchdogMs / 1000} s and was killed`);
      if (lastWords.some((line) => line.includes('heap out of memory'))) {
        throw new TrainerError('outOfMemory', 'heap_out_of_memory', `${job.kind}: the engine process ran out of heap memory`, steps);
      }
      throw died('no_result', `the engine process ended without a result (${killedBy ? `killed by ${killedBy}` : `exit code ${code}`})`);
    } finally {
      watchdog.pause();
      stop.dispose();
      child.stdin.end();
      killGroup(child);
      await exited;
    }
  };
  return run as RunTrainer; // a result is of its job's kind, which is checked above
}

/** The job's files → what the user knows them by. */
const subjects = {
  modelDirectory: 'model.uri', adapterDirectory: 'adapter', trainTokens: 'train tokens', testTokens: 'test tokens', resumeFrom: 'checkpoint',
} as const;

/** Which of the job's inputs a file belongs to. */
function subjectOf(job: TrainerJob, file: string | undefined): string | undefined {
  if (file === undefined) return undefined;
  const inputs = job as Partial<Record<keyof typeof subjects, string>>;
  const keys = Object.keys(subjects) as (keyof typeof subjects)[];
  const key = keys.find((key) => inputs[key] !== undefined && (file === inputs[key] || file.startsWith(`${inputs[key]}/`)));
  return key && subjects[key];
}

/** A line of JSON that fits a schema, or undefined. */
function parseLine<Value>(schema: z.ZodType<Value>, line: string): Value | undefined {
  try {
    return schema.parse(JSON.parse(line));
  } catch {
    return undefined;
  }
}

/** Logs stderr line by line and keeps its end. */
function collectStderr(child: ChildProcess, log: Logger): string[] {
  const kept: string[] = [];
  createInterface({ input: child.stderr! }).on('line', (line) => {
    logStderr(line, log);
    kept.push(line);
    if (kept.length > keptLines) kept.shift();
  });
  return kept;
}

/** A log line of the engine itself. */
const logLineSchema = z.object({ level: z.enum(['info', 'warn', 'error']), message: z.string() });

/** The engine's own lines keep their level; what its libraries print is for debugging. */
function logStderr(line: string, log: Logger): void {
  const own = parseLine(logLineSchema, line);
  if (own) log[own.level](own.message);
  else log.debug({ stream: 'stderr' }, line);
}

function createWatchdog(ms: number, onSilence: () => void) {
  let timer = setTimeout(onSilence, ms);
  return {
    pause: () => clearTimeout(timer),
    restart: () => {
      clearTimeout(timer);
      timer = setTimeout(onSilence, ms);
    },
  };
}

function onceAborted(signal: AbortSignal, action: () => NodeJS.Timeout) {
  let timer: NodeJS.Timeout | undefined;
  const listener = () => {
    timer = action();
  };
  signal.addEventListener('abort', listener, { once: true });
  return {
    dispose: () => {
      signal.removeEventListener('abort', listener);
      clearTimeout(timer);
    },
  };
}

function killGroup(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    // ESRCH: nobody is left
  }
}
