/** Runs workflows and the stages that need no accelerator. */
import { formatStage } from '../activities/format.js';
import { ingestStage } from '../activities/ingest.js';
import { publishStage } from '../activities/publish.js';
import { reportStage } from '../activities/report.js';
import { createStageActivities } from '../activities/stage-activities.js';
import { createValidateStage } from '../activities/validate.js';
import { runWorker } from './run-worker.js';
import { sourceSettings } from './services.js';
import { workflowBundle } from './workflow-bundle.js';

await runWorker({
  name: 'orchestrator',
  options: async (config, services) => ({
    taskQueue: config.taskQueues.orchestration,
    workflowBundle: { codePath: await workflowBundle(config.cacheDirectory) },
    activities: createStageActivities(
      [createValidateStage(sourceSettings(config)), ingestStage, formatStage, reportStage, publishStage],
      services,
    ),
    maxConcurrentActivityTaskExecutions: config.workers.maxActivities,
    maxCachedWorkflows: config.workers.maxCachedWorkflows,
  }),
});
