import { join } from 'node:path';
import { z } from 'zod';
import { evaluationPromptSchema, type EvaluateInput, type EvaluateOutput } from '../contracts/stages.js';
import { getDirectory } from './artifact-directory.js';
import type { StageContext } from './stage.js';
import { TrainerError } from './trainer-error.js';

/** Rows a batch to begin with; halved as long as they do not fit into memory. No figure depends on it. */
const largestBatch = 16;

/** Measures a model, with an adapter or without: loss over the test split and an answer to each prompt. */
export async function evaluateModel(input: EvaluateInput, context: StageContext): Promise<EvaluateOutput> {
  const { store, workDirectory, signal, progress } = context;
  const modelDirectory = await context.models.open(input.model);
  const testTokens = join(workDirectory, 'test.safetensors');
  await store.getFile(input.test, testTokens, { signal });
  const prompts = z.array(evaluationPromptSchema).parse(JSON.parse((await store.getBytes(input.prompts)).toString('utf8')));
  const adapterDirectory = input.adapter ? join(workDirectory, 'adapter') : undefined;
  if (input.adapter && adapterDirectory) await getDirectory(store, input.adapter, adapterDirectory, signal);

  const evaluate = (batchSize: number) =>
    context.runTrainer(
      {
        kind: 'evaluate', model: input.model, modelDirectory, base: input.base, adapterDirectory,
        testTokens, prompts, maxNewTokens: input.maxNewTokens, batchSize,
      },
      {
        signal,
        log: context.log,
        onEvent: (event) => {
          if (event.event === 'progress') progress(event.phase, event.done, event.total);
        },
      },
    );

  for (let batchSize = largestBatch; ; batchSize /= 2) {
    try {
      const result = await evaluate(batchSize);
      const answers = await store.putBytes(Buffer.from(JSON.stringify(result.answers)), 'application/json');
      return { metrics: result.metrics, answers, backend: result.backend };
    } catch (err) {
      if (!(err instanceof TrainerError) || err.failure !== 'outOfMemory' || batchSize === 1) throw err;
      context.log.warn({ batchSize }, `out of memory with ${batchSize} rows a batch: trying ${batchSize / 2}`);
    }
  }
}
