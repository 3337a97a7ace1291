import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { createProgressReporter } from '../../activities/progress-reporter.js';
import type { StageProgress } from '../../contracts/pipeline.js';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const at = (done: number): StageProgress => ({ stage: 'train', phase: 'training', done, total: 1e6 });

function recorder() {
  const sent: number[] = [];
  const reporter = createProgressReporter({ send: ({ done }) => Promise.resolve(void sent.push(done)) });
  return { sent, reporter };
}

describe('createProgressReporter', () => {
  it('sends the first report at once, then the newest every 5 seconds', async () => {
    const { sent, reporter } = recorder();
    for (let second = 0; second < 12; second += 1) {
      reporter.report(at(second));
      await vi.advanceTimersByTimeAsync(1000);
    }
    expect(sent).toEqual([0, 4, 9]);
  });

  it('sends what came last, even when nothing follows', async () => {
    const { sent, reporter } = recorder();
    for (const done of [1, 2, 3]) reporter.report(at(done));
    await vi.advanceTimersByTimeAsync(60_000);
    expect(sent).toEqual([1, 3]);
  });

  it('sends at most 600 reports in 12 hours', async () => {
    const { sent, reporter } = recorder();
    for (let second = 0; second < 12 * 3600; second += 1) {
      reporter.report(at(second));
      await vi.advanceTimersByTimeAsync(1000);
    }
    expect(sent.length).toBeGreaterThan(400);
    expect(sent.length).toBeLessThan(600);
  });

  it('goes on after a report that could not be delivered', async () => {
    const send = vi.fn<(progress: StageProgress) => Promise<void>>().mockRejectedValueOnce(new Error('unavailable')).mockResolvedValue();
    const reporter = createProgressReporter({ send });
    reporter.report(at(1));
    reporter.report(at(2));
    await vi.advanceTimersByTimeAsync(10_000);
    expect(send.mock.calls.map(([{ done }]) => done)).toEqual([1, 2]);
  });

  it('sends the last figures at the end, and nothing afterwards', async () => {
    const { sent, reporter } = recorder();
    reporter.report(at(1));
    reporter.report(at(2));
    await reporter.finish();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(sent).toEqual([1, 2]);
  });
});
