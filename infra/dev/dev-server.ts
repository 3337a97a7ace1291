/** The Temporal development server: one program with front end, database file and UI. */
import { Connection } from '@temporalio/client';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ProcessSpec } from './process-group.js';

export interface DevServerOptions {
  /** The `temporal` program. */
  executable: string;
  /** SQLite file that keeps runs across restarts. */
  databaseFile: string;
  port: number;
  uiPort: number;
  namespace: string;
  logFile: string;
}

export function devServerSpec({ executable, databaseFile, port, uiPort, namespace, logFile }: DevServerOptions): ProcessSpec {
  const args = ['server', 'start-dev', '--ip', '127.0.0.1', '--port', String(port), '--ui-port', String(uiPort)];
  args.push('--db-filename', databaseFile, '--namespace', namespace, '--log-level', 'warn', '--log-format', 'json');
  args.push('--search-attribute', 'TemperStage=Keyword');
  return { command: executable, args, logFile };
}

/**
 * Waits until the server answers its health check.
 * @throws when it does not within `timeoutMs`, or when `signal` aborts
 */
export async function waitUntilServing(address: string, { timeoutMs, signal }: { timeoutMs: number; signal?: AbortSignal }): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    signal?.throwIfAborted();
    if (await isServing(address)) return;
    if (performance.now() > deadline) throw new Error(`Temporal server at ${address}: expected it to answer within ${timeoutMs / 1000} s, got no answer`);
    await sleep(100, undefined, { signal });
  }
}

/** Whether a Temporal server answers at this address. */
export async function isServing(address: string): Promise<boolean> {
  try {
    const connection = await Connection.connect({ address, connectTimeout: 1_000 });
    await connection.close();
    return true;
  } catch {
    return false;
  }
}
