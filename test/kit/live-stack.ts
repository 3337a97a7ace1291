import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, openSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { Client, Connection } from '@temporalio/client';
import { typeScript } from '../../cli/worker-processes.js';
import { fineTuneWorkflow, type FineTuneResult } from '../../contracts/pipeline.js';
import type { FineTuneInput } from '../../contracts/fine-tune-config.js';
import { devServerSpec, waitUntilServing } from '../../infra/dev/dev-server.js';
import { freePort } from '../../infra/dev/free-port.js';
import { temporalCli } from '../../infra/tools/temporal-cli.js';
import { openStore } from '../../store/open-store.js';
import { cacheDirectory } from './temporal.js';

type Member = 'server' | 'orchestrator' | 'gpu';

/** A server and both workers as processes of their own, each of which can be killed and started again. */
export async function startLiveStack(directory: string, environment: NodeJS.ProcessEnv = {}) {
  const { path: executable } = await temporalCli(cacheDirectory);
  const [port, uiPort] = [await freePort(0), await freePort(0)];
  const address = `127.0.0.1:${port}`;
  const store = openStore(pathToFileURL(join(directory, 'store')).href);
  const logFile = (name: Member) => join(directory, `${name}.log`);
  mkdirSync(directory, { recursive: true });

  const commands: Record<Member, { command: string; args: string[] }> = {
    server: devServerSpec({ executable, databaseFile: join(directory, 'temporal.db'), port, uiPort, namespace: 'default', logFile: '' }),
    orchestrator: typeScript('workers/orchestrator.ts'),
    gpu: typeScript('workers/gpu.ts'),
  };
  const env = {
    ...process.env, TEMPORAL_ADDRESS: address, TEMPER_STORE: store.root, TEMPER_CACHE: resolve(cacheDirectory), TEMPER_DATA_ROOTS: directory,
    TEMPER_TASK_QUEUE: 'temper', ...environment,
  };
  const running = {} as Record<Member, ChildProcess>;
  const start = (name: Member) => {
    const log = openSync(logFile(name), 'a');
    running[name] = spawn(commands[name].command, commands[name].args, { env, stdio: ['ignore', log, log] });
  };
  const stop = async (name: Member, signal: NodeJS.Signals) => {
    const child = running[name];
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill(signal);
    await once(child, 'exit');
  };

  start('server');
  await waitUntilServing(address, { timeoutMs: 60_000 });
  start('orchestrator');
  start('gpu');
  const connection = await Connection.connect({ address });
  const client = new Client({ connection });
  return {
    store,
    client,
    pid: (name: Member) => running[name].pid!,
    log: (name: Member) => readFileSync(logFile(name), 'utf8'),
    /** Ends a process and starts a new one in its place. @param signal default kill -9 */
    async replace(name: Member, signal: NodeJS.Signals = 'SIGKILL') {
      await stop(name, signal);
      start(name);
    },
    run: (input: FineTuneInput, workflowId: string) =>
      client.workflow.start<(input: FineTuneInput) => Promise<FineTuneResult>>(fineTuneWorkflow, { taskQueue: 'temper', workflowId, args: [input] }),
    async stopAll() {
      await Promise.all([stop('orchestrator', 'SIGTERM'), stop('gpu', 'SIGTERM')]);
      await stop('server', 'SIGTERM');
      await connection.close();
    },
  };
}

export type LiveStack = Awaited<ReturnType<typeof startLiveStack>>;

/** Asks again while the server is away. */
export async function patiently<T>(ask: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await ask();
    } catch (err) {
      if ((err as Error).name !== 'ServiceError') throw err;
      await sleep(200);
    }
  }
}
