import { mkdir, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { fineTuneWorkflow, type FineTuneResult } from '../../contracts/pipeline.js';
import { describeTrainable } from '../../contracts/trainable-parameters.js';
import { openStore } from '../../store/open-store.js';
import { artifactFiles, type ArtifactFiles } from '../artifact-files.js';
import { connect, runUrl } from '../connect.js';
import type { Console } from '../console.js';
import { dataDirectory } from '../data-directory.js';
import { joinOrStartDevStack } from '../dev-stack.js';
import { formatSeconds } from '../format.js';
import { progressView } from '../progress/progress-view.js';
import { watchRun } from '../progress/watch-run.js';
import { readConfigFile } from '../read-config-file.js';
import { resultLines } from '../show-run.js';
import { startRun } from '../start-run.js';

export interface QuickstartOptions {
  /** The configuration to run. */
  config: string;
  /** Run every stage, whatever earlier runs left. */
  fresh?: boolean;
  /** Leave server and UI running until Ctrl-C. */
  keep?: boolean;
}

/** Starts what a run needs, runs a configuration, shows what came of it, and stops what it started. */
export async function quickstart({ config: file, fresh, keep }: QuickstartOptions, console: Console, signal: AbortSignal): Promise<void> {
  const started = performance.now();
  const input = await readConfigFile(file);
  const view = progressView({ ...console, json: false });
  const stack = await joinOrStartDevStack({ onLine: (line) => view.note(line), signal });
  try {
    const { client, config } = await connect({ ...process.env, TEMPORAL_ADDRESS: stack.address });
    const { handle, runId } = await startRun(client, input, { taskQueue: config.taskQueues.orchestration, fresh });
    console.err(`Workflow ${fineTuneWorkflow}, run ${handle.workflowId}`);
    console.err(`Temporal UI: ${runUrl(stack.uiUrl, config.temporal.namespace, handle.workflowId)}`);
    const result = await Promise.race([watchRun(handle, { view, signal }), stack.failed]);
    if (result instanceof Error) throw result;
    const files = await artifactFiles(result, openStore(config.store), join(dataDirectory, 'quickstart'));
    const summary = summarise(result, { workflowId: handle.workflowId, runId, files });
    await mkdir(join(dataDirectory, 'quickstart'), { recursive: true });
    await writeFile(join(dataDirectory, 'quickstart/summary.json'), `${JSON.stringify(summary, undefined, 2)}\n`);
    if (console.json) console.out(JSON.stringify(summary));
    else console.out([...(await resultLines(result, config, console)), '', ...closingLines(result, files, performance.now() - started)].join('\n'));
    if (keep && !stack.joined) {
      console.err(`Server and UI stay up at ${stack.uiUrl}; Ctrl-C stops them.`);
      await Promise.race([stack.failed, new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }))]);
    }
  } catch (error) {
    if (signal.aborted) console.err('Stopping server and workers … the run goes on when you start this command again.');
    throw error;
  } finally {
    await stack.stop();
  }
}

/** What .temper/quickstart/summary.json holds. */
function summarise(result: FineTuneResult, { workflowId, runId, files }: { workflowId: string; runId: string; files: ArtifactFiles }) {
  const { backend, stages, baseline, tuned, train, merge } = result;
  return { workflowId, runId, backend, stages, baseline, tuned, train, merge, artifacts: files };
}

function closingLines({ stages, backend, train, artifacts }: FineTuneResult, files: ArtifactFiles, milliseconds: number): string[] {
  const reused = stages.filter((stage) => stage.reused).map(({ name }) => name);
  const ran = stages.filter((stage) => !stage.reused).map(({ name, seconds }) => `${name} ${formatSeconds(seconds)}`);
  const lines: [string, string][] = [
    ['Backend', backend],
    ['Trained', `${train.steps} steps, ${train.tokens.toLocaleString('en')} tokens, ${describeTrainable(train.trainableParameters, train.totalParameters)}`],
    ['Ran', ran.join(', ') || 'nothing'],
    ['Reused', reused.join(', ') || 'nothing'],
    ['Took', formatSeconds(milliseconds / 1000)],
    ['Adapter', relative('', files.adapter)],
    ['Model', relative('', files.merged)],
    ...(files.gguf === undefined ? [] : [['GGUF', relative('', files.gguf)] satisfies [string, string]]),
    ...(artifacts.hub ? [['Hub', artifacts.hub.url] satisfies [string, string]] : []),
    ['Report', relative('', files.report)],
  ];
  return lines.map(([name, value]) => `${name.padEnd(9)}${value}`);
}
