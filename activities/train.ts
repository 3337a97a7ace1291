import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { trainInputSchema, trainOutputSchema, type TrainInput } from '../contracts/stages.js';
import type { TrainerEvent, TrainerJob } from '../contracts/trainer-messages.js';
import { putDirectory } from './artifact-directory.js';
import { Checkpoints, removeCheckpoints } from './checkpoints.js';
import { defineStage, stageKey, type StageContext } from './stage.js';

/** Trains an adapter. An attempt goes on from the newest complete checkpoint that earlier ones with the same key stored. */
export const trainStage = defineStage({
  name: 'train',
  version: 2,
  input: trainInputSchema,
  output: trainOutputSchema,
  run: async (input, context) => {
    const { store, log, progress, signal, workDirectory } = context;
    const checkpoints = await Checkpoints.open(store, {
      key: trainingKey(input, context.scope), owner: context.runId, keep: context.keepCheckpoints, log,
    });
    const resume = await checkpoints.restore(join(workDirectory, 'resume'));
    log.info({ fence: checkpoints.fence, step: resume?.step ?? 0 }, resume ? `training goes on from step ${resume.step}` : 'training starts');

    const result = await context.runTrainer(await prepareJob(input, context, resume?.directory), {
      signal,
      log,
      onEvent: createEventHandler(context, async (step, directory) => {
        await checkpoints.save(step, directory);
        await rm(directory, { recursive: true, force: true });
        log.info({ step }, `stored the checkpoint of step ${step}`);
      }),
    });
    progress('storing the adapter', 0, 1);
    return {
      adapter: await putDirectory(store, result.adapterDirectory, signal),
      history: await store.putFile(result.historyFile, 'application/json', { signal }),
      summary: result.summary,
    };
  },
  finish: (input, { store, scope }) => removeCheckpoints(store, trainingKey(input, scope)),
});

/**
 * What trainings share checkpoints: like the stage key, but a step's rows count and not how they are cut into micro-batches, so
 * that training goes on with smaller ones when memory runs out.
 */
function trainingKey({ train, ...input }: TrainInput, scope: string | undefined): string {
  const { batchSize, accumulation, ...rest } = train;
  return stageKey({ name: 'checkpoints', version: 2 }, { ...input, train: { ...rest, rowsPerStep: batchSize * accumulation } }, scope);
}

async function prepareJob(input: TrainInput, context: StageContext, resumeFrom: string | undefined): Promise<Extract<TrainerJob, { kind: 'train' }>> {
  const { store, signal, workDirectory } = context;
  const outputDirectory = join(workDirectory, 'output');
  await mkdir(outputDirectory);
  const [trainTokens, testTokens] = ['train.safetensors', 'test.safetensors'].map((name) => join(workDirectory, name));
  await store.getFile(input.trainTokens, trainTokens, { signal });
  await store.getFile(input.testTokens, testTokens, { signal });
  return {
    kind: 'train', model: input.model, modelDirectory: await context.models.open(input.model),
    base: input.base, lora: input.lora, train: input.train, trainTokens, testTokens, resumeFrom, outputDirectory,
    adapterDirectory: input.startAdapter && (await context.models.open({ files: input.startAdapter }, undefined, 'lora.from')),
  };
}

/** Turns the engine's events into progress and stored checkpoints. */
function createEventHandler({ progress, training }: StageContext, store: (step: number, directory: string) => Promise<void>) {
  let evalLoss: number | undefined;
  return async (event: TrainerEvent): Promise<void> => {
    if (event.event === 'progress') progress(event.phase, event.done, event.total);
    if (event.event === 'eval') evalLoss = event.loss;
    if (event.event === 'checkpoint') await store(event.step, event.directory);
    if (event.event === 'step') {
      const { step, steps, epoch, loss, learningRate, tokensPerSecond, etaSeconds } = event;
      training({ step, steps, epoch, loss, evalLoss, learningRate, tokensPerSecond, etaSeconds });
    }
  };
}
