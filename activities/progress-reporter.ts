import type { StageProgress } from '../contracts/pipeline.js';

export interface ProgressReporterOptions {
  /** Delivers to the workflow. What it throws is ignored: progress is not worth a failure. */
  send(progress: StageProgress): Promise<void>;
}

export interface ProgressReporter {
  /** Takes the newest state; it is sent when the next report is due. */
  report(progress: StageProgress): void;
  /** Sends what is still unsent, so that the last figures of a stage are not lost; nothing is sent after that. */
  finish(): Promise<void>;
}

/** The first reports are this far apart, in ms. */
const shortestInterval = 5_000;

/**
 * Passes on some of many progress reports: each costs the workflow's history four events, and a history has an end. The
 * interval is 5 s at first and grows to a hundredth of the time since the start, so that 12 hours cost about 550 reports
 * (100 in the first 500 s, then 100 for each e-fold of time) instead of 8,640.
 */
export function createProgressReporter({ send }: ProgressReporterOptions): ProgressReporter {
  const start = performance.now();
  let last = -Infinity;
  let latest: StageProgress | undefined;
  let timer: NodeJS.Timeout | undefined;
  let sending = false;

  const flush = () => {
    clearTimeout(timer);
    timer = undefined;
    if (!latest || sending) return;
    const time = performance.now();
    const wait = last + Math.max(shortestInterval, (time - start) / 100) - time;
    if (wait > 0) {
      timer = setTimeout(flush, wait);
      return;
    }
    const progress = latest;
    latest = undefined;
    last = time;
    sending = true;
    send(progress)
      .catch(() => {})
      .finally(() => {
        sending = false;
        flush();
      });
  };
  return {
    report(progress) {
      latest = progress;
      if (!timer) flush();
    },
    async finish() {
      clearTimeout(timer);
      const progress = latest;
      latest = undefined;
      if (progress) await send(progress).catch(() => {});
    },
  };
}
