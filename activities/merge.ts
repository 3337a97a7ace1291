import { join } from 'node:path';
import { mergeInputSchema, mergeOutputSchema } from '../contracts/stages.js';
import { getDirectory, putDirectory } from './artifact-directory.js';
import { defineStage } from './stage.js';

/** Adds the adapter to the base's weights: a Hugging Face directory that needs no adapter library. */
export const mergeStage = defineStage({
  name: 'merge',
  version: 1,
  input: mergeInputSchema,
  output: mergeOutputSchema,
  run: async ({ model, adapter }, { store, models, runTrainer, log, progress, signal, workDirectory }) => {
    const modelDirectory = await models.open(model);
    const adapterDirectory = join(workDirectory, 'adapter');
    await getDirectory(store, adapter, adapterDirectory, signal);
    const result = await runTrainer(
      { kind: 'merge', model, modelDirectory, adapterDirectory, outputDirectory: join(workDirectory, 'merged') },
      {
        signal,
        log,
        onEvent: (event) => {
          if (event.event === 'progress') progress(event.phase, event.done, event.total);
        },
      },
    );
    if (result.kind !== 'merge') throw new Error(`engine: expected the result of merge, got ${result.kind}`);
    progress('storing the merged model', 0, 1);
    return { merged: await putDirectory(store, result.directory, signal) };
  },
});
