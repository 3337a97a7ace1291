import type { StageProgress } from '../contracts/pipeline.js';

export interface ProgressReporterOptions {
  /** Delivers to the workflow. What it throws is ignored: progress is not worth a failure. */
  send(progress: StageProgress): Promise<void>;
  /** Milliseconds from any start. @default performance.now */
  now?: () => number;
}

/** The first reports are this far apart, in ms. */
const shortestInterval = 5_000;

/**
 * Passes on some of many progress reports: each costs the workflow's history four events, and a history has an end. The
 * interval is 5 s at first and grows to a hundredth of the time since the start, so that 12 hours cost about 550 reports
 * (100 in the first 500 s, then 100 for each e-fold of time) instead of 8,640.
 */
export function createProgressReporter({ send, now = () => performance.now() }: ProgressReporterOptions): (progress: StageProgress) => void {
  const start = now();
  let last = -Infinity;
  let sending = false;
  return (progress) => {
    const time = now();
    if (sending || time - last < Math.max(shortestInterval, (time - start) / 100)) return;
    last = time;
    sending = true;
    send(progress)
      .catch(() => {})
      .finally(() => {
        sending = false;
      });
  };
}
