import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { Context } from '@temporalio/activity';
import type { Logger } from 'pino';
import { failureTypes, progressSignal, type StageActivities, type StageProgress, type StageRequest } from '../contracts/pipeline.js';
import { createProgressReporter, type ProgressReporter } from './progress-reporter.js';
import { toStageFailure } from './stage-failure.js';
import { runStage, type Stage, type StageServices } from './stage.js';

/** What a worker has for all its stages; what belongs to one attempt is added for each. */
export type WorkerServices = Omit<StageServices, 'log' | 'progress' | 'training' | 'signal' | 'runId'> & {
  log: Logger;
  /** Aborted when the worker is told to stop, before its grace time begins. */
  stopping: AbortSignal;
};

/** A worker that dies is noticed after the heartbeat timeout; it beats this often, in ms. */
const beatInterval = 5_000;

// eslint-disable-next-line @typescript-eslint/no-explicit-any -- a list of stages of different types; runStage checks input and output
type AnyStage = Stage<any, any>;

/** The activities for some stages, under the stages' names. */
export function createStageActivities(stages: AnyStage[], services: WorkerServices): Partial<StageActivities> {
  return Object.fromEntries(stages.map((stage) => [stage.name, (request: StageRequest<unknown>) => runAsActivity(stage, request, services)]));
}

async function runAsActivity(stage: AnyStage, request: StageRequest<unknown>, { stopping, ...services }: WorkerServices) {
  const context = Context.current();
  const { workflowExecution, activityType, attempt } = context.info;
  const log = services.log.child({ ...workflowExecution, activity: activityType, attempt });

  let latest: StageProgress = { stage: stage.name, phase: 'starting', done: 0, total: 0 };
  const reporter = createReporter(context);
  const report = (progress: StageProgress) => {
    latest = progress;
    context.heartbeat(progress);
    reporter?.report(progress);
  };
  // The beat says that this worker lives. That the engine process lives too, is its watchdog's business: between two of its
  // events may lie more time than a lost worker should go unnoticed.
  const beat = setInterval(() => context.heartbeat(latest), beatInterval);

  try {
    return await runStage(stage, request, {
      ...services,
      log,
      runId: workflowExecution?.runId ?? context.info.activityId,
      signal: AbortSignal.any([context.cancellationSignal, stopping]),
      progress: (phase, done, total) => report({ ...latest, phase, done, total }),
      training: (train) => report({ ...latest, phase: 'training', done: train.step, total: train.steps, train }),
    });
  } catch (error) {
    // Cancel, pause and reset are recognised by the reason that the server gave.
    if (context.cancellationSignal.aborted) {
      const { reason } = context.cancellationSignal;
      throw reason instanceof CancelledFailure ? reason : new CancelledFailure(String(reason));
    }
    if (stopping.aborted) throw ApplicationFailure.retryable(`${stage.name}: the worker was told to stop`, failureTypes.workerStopped);
    log.warn({ err: error }, `${stage.name} failed`);
    throw toStageFailure(error, stage.name, attempt);
  } finally {
    clearInterval(beat);
    await reporter?.finish();
  }
}

/** Undefined for an activity that no workflow started. */
function createReporter(context: Context): ProgressReporter | undefined {
  const { workflowId, runId } = context.info.workflowExecution ?? {};
  if (!workflowId) return undefined;
  return createProgressReporter({
    send: (progress) => context.client.workflow.getHandle(workflowId, runId).signal(progressSignal, progress),
  });
}
