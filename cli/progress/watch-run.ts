import { setTimeout as sleep } from 'node:timers/promises';
import { statusQuery, type FineTuneResult, type RunStatus } from '../../contracts/pipeline.js';
import type { RunHandle } from '../start-run.js';
import type { ProgressView } from './progress-view.js';

export interface WatchOptions {
  view: ProgressView;
  signal: AbortSignal;
  /** @default 500 */
  everyMs?: number;
}

/**
 * Shows a run until it ends and returns its result.
 * @throws WorkflowFailedError when it fails; the signal's reason when `signal` aborts, which leaves the run alone
 */
export async function watchRun(handle: RunHandle, { view, signal, everyMs = 500 }: WatchOptions): Promise<FineTuneResult> {
  const ended = new AbortController();
  const showing = showUntil(handle, view, AbortSignal.any([ended.signal, signal]), everyMs);
  try {
    const result = await Promise.race([handle.result(), aborted(signal)]);
    ended.abort();
    await showing;
    await showOnce(handle, view);
    return result;
  } finally {
    ended.abort();
    await showing;
    view.end();
  }
}

async function showUntil(handle: RunHandle, view: ProgressView, signal: AbortSignal, everyMs: number): Promise<void> {
  while (!signal.aborted) {
    await showOnce(handle, view);
    await sleep(everyMs, undefined, { signal }).catch(() => {});
  }
}

/** A query fails while no worker runs or the server restarts: the next look shows more. */
async function showOnce(handle: RunHandle, view: ProgressView): Promise<void> {
  const status = await handle.query<RunStatus>(statusQuery).catch(() => undefined);
  if (status) view.show(status);
}

const aborted = (signal: AbortSignal): Promise<never> =>
  new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
