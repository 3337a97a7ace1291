/** The development stack: Temporal server with UI, and the workers, as children of this process. One per data folder. */
import { mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { temporalCli } from '../tools/temporal-cli.js';
import { devServerSpec, waitUntilServing } from './dev-server.js';
import { freePort } from './free-port.js';
import { stopLeftOver, type ProcessSpec } from './process-group.js';
import { identify, type ProcessIdentity } from './process-identity.js';
import { claimState, readLiveState, readState, removeState, writeState, type StackState } from './stack-state.js';
import { supervise, type SupervisedProcess } from './supervise.js';

export interface WorkerProcess {
  name: string;
  command: string;
  args: string[];
}

export interface StackOptions {
  /** Holds the server's database, the logs and the file that says who runs the stack, e.g. `.temper`. */
  directory: string;
  /** Fetched tools, e.g. `.temper/cache`. */
  cacheDirectory: string;
  namespace: string;
  /** Taken when free; otherwise the system gives one. */
  port: number;
  uiPort: number;
  workers: WorkerProcess[];
  /** How long a worker may take to stop: long enough for a trainer to write a checkpoint. */
  workerGraceMs: number;
  /** One line for people: restarts and the like. */
  onLine(line: string): void;
  /** Stop waiting for the server. */
  signal?: AbortSignal;
}

export interface Stack {
  /** host:port of the Temporal server's front end. */
  readonly address: string;
  readonly uiUrl: string;
  /** Settles with an error when a process keeps failing. */
  readonly failed: Promise<Error>;
  /** Ends everything that was started: workers first, so that they can hand back their tasks. */
  stop(): Promise<void>;
}

/** A stack is running in this folder already, started by another process. */
export class StackRunningError extends Error {
  readonly code = 'stack_running';
  constructor(readonly state: StackState) {
    super(`${state.address}: a development stack of this folder is running already (process ${state.owner.pid})`);
    this.name = 'StackRunningError';
  }
}

const serverGraceMs = 5_000;
const leftOverGraceMs = 2_000;
const serverStartMs = 60_000;

export const stateFile = (directory: string): string => join(directory, 'dev/stack.json');

/** The stack that is running in this folder, if any. */
export const runningStack = (directory: string): Promise<StackState | undefined> => readLiveState(stateFile(directory));

/**
 * Starts server and workers and waits until the server answers. What a killed predecessor left running is ended first; its
 * database is used, so runs go on.
 * @throws StackRunningError when a living process runs the stack of this folder
 */
export async function startStack(options: StackOptions): Promise<Stack> {
  const { directory, namespace, onLine, signal } = options;
  const file = stateFile(directory);
  const log = (name: string): string => join(directory, 'logs', `${name}.log`);

  const state: StackState = { owner: identify(process.pid)!, address: '', uiUrl: '', processes: [] };
  await claim(file, state, onLine);
  const running: SupervisedProcess[] = [];
  const killAll = (): void => running.forEach((child) => child.killNow());
  process.on('exit', killAll);

  const stop = async (): Promise<void> => {
    const [server, ...workers] = running;
    await Promise.all(workers.map((worker) => worker.stop(options.workerGraceMs)));
    await server?.stop(serverGraceMs);
    await removeState(file);
    process.off('exit', killAll);
  };

  const start = async (name: string, spec: ProcessSpec): Promise<void> => {
    await keepOneOldLog(spec.logFile);
    const onStart = (identity: ProcessIdentity): void => {
      state.processes = [...state.processes.filter((other) => other.name !== name), { name, ...identity }];
      writeState(file, state);
    };
    running.push(await supervise({ name, spec, onStart, onLine }));
  };

  try {
    const { path: executable } = await temporalCli(options.cacheDirectory);
    const port = await freePort(options.port);
    const uiPort = await freePort(options.uiPort);
    Object.assign(state, { address: `127.0.0.1:${port}`, uiUrl: `http://127.0.0.1:${uiPort}` });
    const databaseFile = join(directory, 'dev/temporal.db');
    await start('Temporal server', devServerSpec({ executable, databaseFile, port, uiPort, namespace, logFile: log('temporal') }));
    const env = { TEMPORAL_ADDRESS: state.address, TEMPORAL_NAMESPACE: namespace };
    await Promise.all(options.workers.map(({ name, command, args }) => start(`${name} worker`, { command, args, env, logFile: log(name) })));
    await Promise.race([
      waitUntilServing(state.address, { timeoutMs: serverStartMs, signal }),
      running[0].givenUp.then((error) => Promise.reject(error)),
    ]);
  } catch (error) {
    await stop();
    throw error;
  }
  return { address: state.address, uiUrl: state.uiUrl, failed: Promise.race(running.map((child) => child.givenUp)), stop };
}

async function claim(file: string, state: StackState, onLine: (line: string) => void): Promise<void> {
  while (!(await claimState(file, state))) {
    const other = await readLiveState(file);
    if (other) throw new StackRunningError(other);
    const left = await stopLeftOver((await readState(file))?.processes ?? [], leftOverGraceMs);
    if (left > 0) onLine(`Ended ${left} processes that an earlier run left behind`);
    await removeState(file);
  }
}

/** The log of the last start is kept beside the new one as `….previous.log`. */
async function keepOneOldLog(logFile: string): Promise<void> {
  await mkdir(join(logFile, '..'), { recursive: true });
  await rename(logFile, logFile.replace(/\.log$/, '.previous.log')).catch(() => {});
}
