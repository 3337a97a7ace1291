import type { Client, WorkflowHandle } from '@temporalio/client';
import type { FineTuneInput } from '../contracts/fine-tune-config.js';
import { fineTuneWorkflow, type FineTuneResult } from '../contracts/pipeline.js';
import { workflowId } from './workflow-id.js';

export type RunHandle = WorkflowHandle<(input: FineTuneInput) => Promise<FineTuneResult>>;

export interface StartOptions {
  taskQueue: string;
  /** @default name and digest of the configuration */
  id?: string;
  /** Ignore earlier results: a run of the same id that is still going is replaced. */
  fresh?: boolean;
}

/**
 * Starts the `fineTune` workflow. A run of the same id that is going already is joined: starting twice continues, and
 * never trains twice at the same time.
 */
export async function startRun(client: Client, input: FineTuneInput, { taskQueue, id, fresh = false }: StartOptions): Promise<{ handle: RunHandle; runId: string }> {
  const handle = await client.workflow.start<(input: FineTuneInput) => Promise<FineTuneResult>>(fineTuneWorkflow, {
    workflowId: id ?? workflowId(input),
    taskQueue,
    args: [fresh ? { ...input, reuse: false } : input],
    workflowIdConflictPolicy: fresh ? 'TERMINATE_EXISTING' : 'USE_EXISTING',
    workflowIdReusePolicy: 'ALLOW_DUPLICATE',
    staticSummary: `${input.name}: ${input.model.uri} on ${[input.dataset.uri].flat().join(', ')}`,
    staticDetails: ['```json', JSON.stringify(input, undefined, 2), '```'].join('\n'),
  });
  return { handle, runId: handle.firstExecutionRunId };
}
