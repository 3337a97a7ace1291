import { setTimeout as sleep } from 'node:timers/promises';
import { startGroup, type Exit, type ProcessGroup, type ProcessSpec } from './process-group.js';
import type { ProcessIdentity } from './process-identity.js';

export interface SupervisedProcess {
  readonly name: string;
  /** Settles with an error when the process keeps failing and is given up. */
  readonly givenUp: Promise<Error>;
  stop(graceMs: number): Promise<void>;
  killNow(): void;
}

export interface SuperviseOptions {
  name: string;
  spec: ProcessSpec;
  /** After each start. */
  onStart(identity: ProcessIdentity): void;
  /** One line for people. */
  onLine(line: string): void;
  /** First pause before a restart, doubled up to 30 s while the process keeps failing. @default 1000 */
  pauseMs?: number;
  /** This many failures in a row, each within a minute of its start, are too many. @default 5 */
  attempts?: number;
}

const healthyMs = 60_000;
const longestPauseMs = 30_000;

/** Keeps a process running: one that ends by itself is started again. */
export async function supervise(options: SuperviseOptions): Promise<SupervisedProcess> {
  const { name, spec, onStart, onLine, pauseMs = 1_000, attempts = 5 } = options;
  const stopping = new AbortController();
  let group: ProcessGroup | undefined;

  const start = async (): Promise<number> => {
    group = await startGroup(spec);
    if (stopping.signal.aborted) group.killNow();
    else onStart(group.identity);
    return performance.now();
  };

  const keepRunning = async (firstStart: number): Promise<Error | undefined> => {
    let startedAt = firstStart;
    let failures = 0;
    for (;;) {
      const exit = await group!.ended;
      if (stopping.signal.aborted) return undefined;
      failures = performance.now() - startedAt > healthyMs ? 1 : failures + 1;
      if (failures === attempts) return new Error(`${name}: ended ${attempts} times in a row (${describeExit(exit)}); see ${spec.logFile}`);
      const pause = Math.min(pauseMs * 2 ** (failures - 1), longestPauseMs);
      onLine(`${name} ended (${describeExit(exit)}); starting it again in ${pause / 1000} s, see ${spec.logFile}`);
      await sleep(pause, undefined, { signal: stopping.signal }).catch(() => {});
      if (stopping.signal.aborted) return undefined;
      startedAt = await start();
    }
  };

  const running = keepRunning(await start());
  return {
    name,
    givenUp: new Promise((resolve) => void running.then((error) => error && resolve(error), resolve)),
    stop: async (graceMs) => {
      stopping.abort();
      await group?.stop(graceMs);
      await running.catch(() => {});
    },
    killNow: () => {
      stopping.abort();
      group?.killNow();
    },
  };
}

const describeExit = ({ code, signal }: Exit): string => (signal ? `signal ${signal}` : `exit code ${code}`);
