import { randomUUID } from 'node:crypto';
import { TestWorkflowEnvironment } from '@temporalio/testing';
import { DefaultLogger, Runtime, Worker } from '@temporalio/worker';
import type { StageActivities } from '../../contracts/pipeline.js';
import { gpuTaskQueue } from '../../contracts/task-queues.js';
import { temporalCli } from '../../infra/tools/temporal-cli.js';
import { workflowBundle } from '../../workers/workflow-bundle.js';

/** The project's cache: tools and the workflow bundle. */
export const cacheDirectory = process.env.TEMPER_CACHE ?? '.temper/cache';

/** A development server of the test's own. The search attribute of workflows/details.ts is registered. */
export async function startTemporal(): Promise<TestWorkflowEnvironment> {
  Runtime.install({ logger: new DefaultLogger('ERROR') });
  const { path } = await temporalCli(cacheDirectory);
  return TestWorkflowEnvironment.createLocal({
    server: { executable: { type: 'existing-path', path }, extraArgs: ['--search-attribute', 'TemperStage=Keyword', '--log-level', 'never'] },
  });
}

/** Runs a body while an orchestrator and a GPU worker serve a task queue of its own. */
export async function withWorkers<T>(
  { nativeConnection }: TestWorkflowEnvironment,
  activities: Partial<StageActivities>,
  body: (taskQueue: string) => Promise<T>,
): Promise<T> {
  const taskQueue = `test-${randomUUID()}`;
  const { validate, ingest, format, report, publish, ...gpu } = activities;
  const common = { connection: nativeConnection, identity: 'test', maxHeartbeatThrottleInterval: 200, shutdownGraceTime: '10s' };
  const orchestrator = await Worker.create({
    ...common, taskQueue, workflowBundle: { codePath: await workflowBundle(cacheDirectory) },
    activities: { validate, ingest, format, report, publish },
  });
  const trainer = await Worker.create({ ...common, taskQueue: gpuTaskQueue(taskQueue), activities: gpu, maxConcurrentActivityTaskExecutions: 1 });
  return orchestrator.runUntil(() => trainer.runUntil(() => body(taskQueue)));
}
