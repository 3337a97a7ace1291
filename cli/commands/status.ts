import { statusQuery, type RunStatus } from '../../contracts/pipeline.js';
import { connect, runUrl } from '../connect.js';
import type { Console } from '../console.js';
import { terminalLines } from '../progress/terminal-lines.js';

/** Tells where a run is: its state on the server, its stages, live figures and what it has made. */
export async function status(id: string, console: Console): Promise<void> {
  const { client, config, uiUrl } = await connect();
  const handle = client.workflow.getHandle(id);
  const description = await handle.describe();
  const state = description.status.name.toLowerCase();
  // Answered by a worker: without one there is still the server's own word.
  const run = await handle.query<RunStatus>(statusQuery).catch(() => undefined);
  if (console.json) return console.out(JSON.stringify({ workflowId: id, runId: description.runId, state, ...run }));
  console.out(`${id}  ${state}`);
  if (uiUrl) console.out(runUrl(uiUrl, config.temporal.namespace, id));
  if (!run) return console.out('No worker answers, so the stages are not known. Start one with: npm run dev');
  terminalLines(run, console.columns()).forEach((line) => console.out(line));
  const width = Math.max(10, ...Object.keys(run.artifacts).map(({ length }) => length));
  Object.entries(run.artifacts).forEach(([name, uri]) => console.out(`  ${name.padEnd(width)}  ${uri}`));
}
