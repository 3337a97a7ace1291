import { connect } from '../connect.js';
import type { Console } from '../console.js';
import { showRun } from '../show-run.js';

/** Shows a run until it ends. */
export async function watch(id: string, console: Console, signal: AbortSignal): Promise<void> {
  const { client, config } = await connect();
  const handle = client.workflow.getHandle(id);
  await handle.describe(); // an unknown id is an error now, not a wait
  await showRun(handle, config, console, signal);
}
