/** Runs the stages that need the engine, one at a time. */
import { baselineStage } from '../activities/baseline.js';
import { evaluateStage } from '../activities/evaluate.js';
import { mergeStage } from '../activities/merge.js';
import { createStageActivities } from '../activities/stage-activities.js';
import { trainStage } from '../activities/train.js';
import { runWorker } from './run-worker.js';

await runWorker({
  name: 'gpu',
  options: (config, services) =>
    Promise.resolve({
      taskQueue: config.taskQueues.gpu,
      activities: createStageActivities([baselineStage, trainStage, mergeStage, evaluateStage], services),
      maxConcurrentActivityTaskExecutions: 1,
    }),
});
