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
  close(): Promise<void>;
}

/**
 * Connects to the Temporal server of the configuration; without one, to the development stack of this folder.
 * @throws CliError `unreachable` when no server answers
 */
export async function connect(env: NodeJS.ProcessEnv = process.env): Promise<Connected> {
  const stack = namesServer(env) ? undefined : await runningStack(dataDirectory);
  const config = loadConfig(stack ? { ...env, TEMPORAL_ADDRESS: stack.address } : env);
  const { connection: options, address, namespace } = config.temporal;
  const connection = await Connection.connect({ ...options, connectTimeout: 5_000 }).catch((error: Error) => {
    throw new CliError('unreachable', `${address}: expected a Temporal server, got ${error.message}\nStart one with: npm run dev`);
  });
  return { client: new Client({ connection, namespace }), config, uiUrl: stack?.uiUrl, close: () => connection.close() };
}

/** Address of a run in the Temporal UI. */
export const runUrl = (uiUrl: string, namespace: string, workflowId: string): string =>
  `${uiUrl}/namespaces/${encodeURIComponent(namespace)}/workflows/${encodeURIComponent(workflowId)}`;

const namesServer = (env: NodeJS.ProcessEnv): boolean =>
  ['TEMPORAL_ADDRESS', 'TEMPORAL_PROFILE', 'TEMPORAL_CONFIG_FILE'].some((name) => env[name]);
