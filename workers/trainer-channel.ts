import { createInterface } from 'node:readline';
import { setImmediate as turn } from 'node:timers/promises';
import { trainerJobSchema, type TrainerEvent, type TrainerJob } from '../contracts/trainer-messages.js';
import { EngineError } from '../engine/errors.js';

/** The engine process's end of the protocol in contracts/trainer-messages.ts. */
export interface TrainerChannel {
  emit(event: TrainerEvent): void;
  /** Lets signals and the end of stdin be seen: to be awaited between pieces of work that block. */
  breathe(): Promise<void>;
  /** SIGTERM has come. */
  isInterrupted(): boolean;
}

/** Opens the channel. From here on stdout carries events alone, and the process ends with its parent. */
export function openChannel(): TrainerChannel {
  let interrupted = false;
  process.on('SIGTERM', () => (interrupted = true));
  process.stdout.on('error', () => process.exit(1)); // nobody reads: the parent is gone
  console.log = console.info = console.debug = (...values: unknown[]) => log('info', values.join(' '));
  console.warn = (...values: unknown[]) => log('warn', values.join(' '));
  return {
    emit: (event) => void process.stdout.write(`${JSON.stringify(event)}\n`),
    breathe: () => turn(),
    isInterrupted: () => interrupted,
  };
}

/** One JSON line on stderr. */
export const log = (level: 'info' | 'warn' | 'error', message: string): void =>
  void process.stderr.write(`${JSON.stringify({ level, time: Date.now(), message })}\n`);

/** Reads the job, the first line of stdin; once stdin ends, the process exits. Throws `bad_job` with every problem. */
export async function readJob(): Promise<TrainerJob> {
  const lines = createInterface({ input: process.stdin });
  const line = await new Promise<string>((resolve) => {
    lines.once('line', resolve);
    lines.once('close', () => process.exit(1));
  });
  let json: unknown;
  try {
    json = JSON.parse(line);
  } catch (err) {
    throw new EngineError('invalidInput', 'bad_job', `job: expected a line of JSON, got ${(err as Error).message}`);
  }
  const job = trainerJobSchema.safeParse(json);
  if (job.success) return job.data;
  throw new EngineError('invalidInput', 'bad_job', job.error.issues.map(({ path, message }) => `job.${path.join('.')}: ${message}`).join('\n'));
}
