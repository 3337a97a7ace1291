import { Worker, type WorkerOptions } from '@temporalio/worker';
import type { Logger } from 'pino';
import { createServices } from './services.js';
import { connect } from './connect.js';
import { createLogger, installTemporalLogger } from './logging.js';
import type { WorkerServices } from '../activities/stage-activities.js';
import { InvalidInputError } from '../contracts/errors.js';
import { loadConfig, type TemperConfig } from '../temporal.config.js';

export interface WorkerSetup {
  /** In the log. */
  name: string;
  /** What is particular to this worker. */
  options(config: TemperConfig, services: WorkerServices): Promise<WorkerOptions>;
}

/** A stage that is done stopping its engine process still has its own end to write. */
const marginMs = 10_000;

/**
 * Runs one worker until SIGTERM or SIGINT. Then it takes no more tasks and engine processes write a checkpoint; their stages
 * are retried on another worker. A second signal ends the process at once.
 */
export async function runWorker({ name, options }: WorkerSetup): Promise<void> {
  const config = configOrExit();
  const log = createLogger(name, config);
  installTemporalLogger(log);
  const stopping = new AbortController();
  onStopSignal(log, () => stopping.abort());

  const services = createServices(config, log, stopping.signal);
  const [connection, own] = await Promise.all([connect(config, log, stopping.signal), options(config, services)]);
  if (!connection) return; // told to stop before there was a server
  try {
    const worker = await Worker.create({
      connection,
      namespace: config.temporal.namespace,
      shutdownGraceTime: config.trainer.graceSeconds * 1000 + marginMs,
      maxHeartbeatThrottleInterval: '5s',
      ...own,
    });
    stopping.signal.addEventListener('abort', () => worker.shutdown(), { once: true });
    log.info({ taskQueue: own.taskQueue, namespace: config.temporal.namespace, store: config.store }, `${name} worker is ready`);
    await worker.run();
    log.info(`${name} worker has stopped`);
  } finally {
    await connection.close();
  }
}

function configOrExit(): TemperConfig {
  try {
    return loadConfig();
  } catch (err) {
    if (!(err instanceof InvalidInputError)) throw err;
    process.stderr.write(`${err.message}\n`);
    process.exit(2);
  }
}

function onStopSignal(log: Logger, stop: () => void): void {
  let asked = false;
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      if (asked) process.exit(1);
      asked = true;
      log.info({ signal }, 'stopping');
      stop();
    });
  }
}
