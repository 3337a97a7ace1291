import { runningStack, startStack, type Stack } from '../infra/dev/stack.js';
import { loadConfig } from '../temporal.config.js';
import { dataDirectory } from './data-directory.js';
import { workerProcesses } from './worker-processes.js';

export interface DevStackOptions {
  /** Port of the server's front end and of the UI. @default 7233 and 8233, or free ones */
  port?: number;
  uiPort?: number;
  onLine(line: string): void;
  signal: AbortSignal;
}

/** Starts server and workers in this folder. @throws StackRunningError when they are running */
export function startDevStack({ port = 7233, uiPort = 8233, onLine, signal }: DevStackOptions): Promise<Stack> {
  const { cacheDirectory, temporal, trainer } = loadConfig();
  return startStack({
    directory: dataDirectory, cacheDirectory, namespace: temporal.namespace, port, uiPort, onLine, signal,
    workers: workerProcesses, workerGraceMs: 1_000 * trainer.graceSeconds + 5_000,
  });
}

/** The stack that runs in this folder (it is then not ours to stop), else a new one. */
export async function joinOrStartDevStack(options: DevStackOptions): Promise<Stack & { joined: boolean }> {
  const running = await runningStack(dataDirectory);
  if (!running) return { ...(await startDevStack(options)), joined: false };
  return { address: running.address, uiUrl: running.uiUrl, failed: new Promise(() => {}), stop: async () => {}, joined: true };
}
