import { openStore } from '../store/open-store.js';
import type { FineTuneResult } from '../contracts/pipeline.js';
import type { Answer } from '../contracts/stages.js';
import type { TemperConfig } from '../temporal.config.js';
import type { Console } from './console.js';
import { progressView } from './progress/progress-view.js';
import { watchRun } from './progress/watch-run.js';
import { answersSideBySide, metricsTable } from './result-table.js';
import type { RunHandle } from './start-run.js';

/** Shows a run until it ends, then its result. @throws as watchRun */
export async function showRun(handle: RunHandle, config: TemperConfig, console: Console, signal: AbortSignal): Promise<void> {
  const result = await watchRun(handle, { view: progressView(console), signal });
  if (console.json) console.out(JSON.stringify(result));
  else {
    const hub = result.artifacts.hub ? [`Hub:    ${result.artifacts.hub.url}`] : [];
    console.out([...(await resultLines(result, config, console)), '', ...hub, `Report: npx temper report ${handle.workflowId}`].join('\n'));
  }
}

/** The figures before and after, and two answers side by side. */
export async function resultLines({ baseline, tuned, artifacts }: FineTuneResult, config: TemperConfig, console: Console): Promise<string[]> {
  const store = openStore(config.store);
  const [before, after] = await Promise.all(
    [artifacts.baselineAnswers, artifacts.tunedAnswers].map(async (ref) => JSON.parse((await store.getBytes(ref)).toString('utf8')) as Answer[]),
  );
  const columns = Math.min(console.columns(), 120);
  return ['', ...metricsTable(baseline, tuned), ...answersSideBySide(before, after, { count: 2, columns })];
}
