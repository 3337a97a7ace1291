import type { LogLevel, LogMetadata, Logger as TemporalLogger } from '@temporalio/common';
import { makeTelemetryFilterString, Runtime } from '@temporalio/worker';
import { pino, type Logger } from 'pino';
import type { TemperConfig } from '../temporal.config.js';

/** JSON lines on stdout. Lines of an activity carry workflowId, runId, activity and attempt. */
export const createLogger = (name: string, { logLevel }: TemperConfig): Logger =>
  pino({ name, level: logLevel, base: { name, pid: process.pid }, timestamp: pino.stdTimeFunctions.isoTime });

const levels = { TRACE: 'trace', DEBUG: 'debug', INFO: 'info', WARN: 'warn', ERROR: 'error' } as const;

/** Leads what the Temporal SDK logs, its native core included, into the same lines. Once a process, before anything else of the SDK. */
export function installTemporalLogger(log: Logger): void {
  const write = (level: LogLevel, message: string, meta: LogMetadata = {}) => {
    const { error, ...rest } = meta;
    log[levels[level]]({ ...rest, ...(error !== undefined && { err: error as unknown }) }, message);
  };
  const logger: TemporalLogger = {
    log: write,
    trace: (message, meta) => write('TRACE', message, meta),
    debug: (message, meta) => write('DEBUG', message, meta),
    info: (message, meta) => write('INFO', message, meta),
    warn: (message, meta) => write('WARN', message, meta),
    error: (message, meta) => write('ERROR', message, meta),
  };
  Runtime.install({
    logger,
    shutdownSignals: [], // workers/run-worker.ts handles them: engine processes are told first
    telemetryOptions: { logging: { filter: makeTelemetryFilterString({ core: 'WARN', other: 'ERROR' }), forward: {} } },
  });
}
