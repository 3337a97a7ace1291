import { setTimeout as sleep } from 'node:timers/promises';
import { NativeConnection } from '@temporalio/worker';
import type { Logger } from 'pino';
import type { TemperConfig } from '../temporal.config.js';

/** Longest wait between two tries, in ms. */
const longestWait = 10_000;

/**
 * Connects to the server, and waits for one that isn't there yet: workers and server may start in any order.
 * @returns undefined when `signal` aborts first
 */
export async function connect({ temporal }: TemperConfig, log: Logger, signal: AbortSignal): Promise<NativeConnection | undefined> {
  for (let wait = 250; !signal.aborted; wait = Math.min(2 * wait, longestWait)) {
    try {
      return await NativeConnection.connect(temporal.connection);
    } catch (err) {
      log.info({ address: temporal.address, reason: (err as Error).message }, `waiting for the Temporal server at ${temporal.address}`);
      await sleep(wait, undefined, { signal }).catch(() => {});
    }
  }
  return undefined;
}
