import { connect, runUrl } from '../connect.js';
import type { Console } from '../console.js';
import { readConfigFile } from '../read-config-file.js';
import { startRun } from '../start-run.js';
import { showRun } from '../show-run.js';

export interface RunOptions {
  watch?: boolean;
  fresh?: boolean;
  id?: string;
}

/** Starts a run of a configuration file, or joins the one that is going. */
export async function run(file: string, { watch, fresh, id }: RunOptions, console: Console, signal: AbortSignal): Promise<void> {
  const input = await readConfigFile(file);
  const { client, config, uiUrl } = await connect();
  const { handle, runId } = await startRun(client, input, { taskQueue: config.taskQueues.orchestration, id, fresh });
  const url = uiUrl && runUrl(uiUrl, config.temporal.namespace, handle.workflowId);
  if (console.json) console.out(JSON.stringify({ workflowId: handle.workflowId, runId, ...(url && { url }) }));
  else console.out([`Run  ${handle.workflowId}`, ...(url ? [`UI   ${url}`] : [])].join('\n'));
  if (watch) await showRun(handle, config, console, signal);
  else if (!console.json) console.out(`Watch it with: npx temper watch ${handle.workflowId}`);
}
