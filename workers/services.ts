import { fileURLToPath } from 'node:url';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { createRunTrainer, type RunTrainer } from '../activities/run-trainer.js';
import { fetchDataset } from '../activities/sources/datasets.js';
import { ModelCache } from '../activities/sources/models.js';
import type { SourceSettings } from '../activities/sources/source-settings.js';
import type { WorkerServices } from '../activities/stage-activities.js';
import { openStore } from '../store/open-store.js';
import type { TemperConfig } from '../temporal.config.js';

/** Where models and datasets may come from on this worker. */
export const sourceSettings = ({ dataRoots, cacheDirectory }: TemperConfig): SourceSettings => ({ dataRoots, cacheDirectory });

/** What the stages of a worker work with. */
export function createServices(config: TemperConfig, log: Logger, stopping: AbortSignal): WorkerServices {
  const settings = sourceSettings(config);
  return {
    log,
    stopping,
    store: openStore(config.store),
    models: new ModelCache(settings),
    cacheDirectory: config.cacheDirectory,
    fetchDataset: (ref, progress) => fetchDataset(ref, settings, progress),
    runTrainer: withBackend(createTrainer(config), config.backend),
    workRoot: join(config.cacheDirectory, 'work'),
    keepCheckpoints: config.trainer.keepCheckpoints,
  };
}

/** Runs workers/trainer.ts with the flags that this process was started with, the TypeScript loader's among them. */
function createTrainer({ trainer }: TemperConfig): RunTrainer {
  return createRunTrainer({
    command: [process.execPath, ...process.execArgv, fileURLToPath(new URL('./trainer.ts', import.meta.url))],
    watchdogMs: trainer.watchdogSeconds * 1000,
    graceMs: trainer.graceSeconds * 1000,
  });
}

/** The configured backend goes with each job; it is not part of the stage's key, as backends agree within their tests' tolerance. */
const withBackend = (run: RunTrainer, backend: TemperConfig['backend']): RunTrainer => (job, options) =>
  run(backend ? { ...job, backend } : job, options);
