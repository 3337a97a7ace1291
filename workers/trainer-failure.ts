import type { TrainerEvent } from '../contracts/trainer-messages.js';
import { EngineError } from '../engine/errors.js';
import { FormatError } from '../engine/formats/format-error.js';
import { log } from './trainer-channel.js';

/** What libtensorflow, V8 and the operating system say when there is no memory left. */
const outOfMemory = /\bOOM\b|RESOURCE_EXHAUSTED|ResourceExhausted|out of memory|OUT_OF_MEMORY|Array buffer allocation failed|bad_alloc|ENOMEM|Invalid typed array length/i;

/** The last event of a job that failed: its class decides the retry. */
export function failedEvent(err: unknown): Extract<TrainerEvent, { event: 'failed' }> {
  if (err instanceof EngineError) {
    return { event: 'failed', failure: err.failure, code: err.code, message: err.message, ...(err instanceof FormatError && { file: err.path }) };
  }
  const message = err instanceof Error ? err.message : String(err);
  log('error', err instanceof Error ? (err.stack ?? message) : message);
  if (outOfMemory.test(message)) return { event: 'failed', failure: 'outOfMemory', code: 'out_of_memory', message: `memory: ${message}` };
  const code = (err as { code?: unknown } | undefined)?.code;
  return { event: 'failed', failure: 'internal', code: typeof code === 'string' ? code : 'internal', message };
}
