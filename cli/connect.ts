import { connect as connectSocket } from 'node:net';
import { Client, Connection } from '@temporalio/client';
import { runningStack } from '../infra/dev/stack.js';
import { loadConfig, type TemperConfig } from '../temporal.config.js';
import { CliError } from './cli-error.js';
import { dataDirectory } from './data-directory.js';

export interface Connected {
  client: Client;
  config: TemperConfig;
  /** Address of the Temporal UI, where we know it. */
  uiUrl?: string;
}

/**
 * Connects to the Temporal server of the configuration; without one, to the development stack of this folder. The connection
 * is open until the process ends: calls that wait for a run are never settled in an orderly way when a command is interrupted,
 * and would fail it if they found their connection closed.
 * @throws CliError `unreachable` when no server answers
 */
export async function connect(env: NodeJS.ProcessEnv = process.env): Promise<Connected> {
  const stack = namesServer(env) ? undefined : await runningStack(dataDirectory);
  const config = loadConfig(stack ? { ...env, TEMPORAL_ADDRESS: stack.address } : env);
  const { connection: options, address, namespace } = config.temporal;
  const unreachable = (reason: string): CliError =>
    new CliError('unreachable', `${address}: expected a Temporal server, got ${reason}\nStart one with: npm run dev`);
  const refusal = await refusalOf(address);
  if (refusal) throw unreachable(refusal);
  const connection = await Connection.connect({ ...options, connectTimeout: 5_000 }).catch((error: Error) => {
    throw unreachable(error.message);
  });
  return { client: new Client({ connection, namespace }), config, uiUrl: stack?.uiUrl };
}

/** Address of a run in the Temporal UI. */
export const runUrl = (uiUrl: string, namespace: string, workflowId: string): string =>
  `${uiUrl}/namespaces/${encodeURIComponent(namespace)}/workflows/${encodeURIComponent(workflowId)}`;

const namesServer = (env: NodeJS.ProcessEnv): boolean =>
  ['TEMPORAL_ADDRESS', 'TEMPORAL_PROFILE', 'TEMPORAL_CONFIG_FILE'].some((name) => env[name]);

/** Why nothing can be there at all, told at once; the client would try for seconds before it gives up. */
function refusalOf(address: string): Promise<string | undefined> {
  const [, host, port] = /^(.*):(\d+)$/.exec(address) ?? [];
  if (!port) return Promise.resolve(undefined);
  return new Promise((resolve) => {
    const socket = connectSocket({ host: host.replace(/^\[|\]$/g, ''), port: Number(port), timeout: 2_000 });
    const settle = (reason?: string): void => {
      socket.destroy();
      resolve(reason);
    };
    socket.once('connect', () => settle());
    socket.once('timeout', () => settle());
    socket.once('error', ({ code, message }: NodeJS.ErrnoException) => settle(code === 'ECONNREFUSED' ? 'a refused connection' : message));
  });
}
