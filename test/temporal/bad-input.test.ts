import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync, readdirSync, realpathSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { WorkflowFailedError } from '@temporalio/client';
import type { ApplicationFailure } from '@temporalio/common';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { baselineStage } from '../../activities/baseline.js';
import { formatStage } from '../../activities/format.js';
import { ingestStage } from '../../activities/ingest.js';
import { createRunTrainer, type RunTrainer, type RunTrainerOptions } from '../../activities/run-trainer.js';
import { createStageActivities } from '../../activities/stage-activities.js';
import { createValidateStage } from '../../activities/validate.js';
import { fineTuneWorkflow, type FineTuneResult, type Problem } from '../../contracts/pipeline.js';
import type { TrainerJob } from '../../contracts/trainer-messages.js';
import { createServices, sourceSettings } from '../../workers/services.js';
import { loadConfig } from '../../temporal.config.js';
import { goldenPath } from '../kit/golden.js';
import { temporaryDirectory } from '../kit/temporary.js';
import { startTemporal, withWorkers } from '../kit/temporal.js';
import { silentLog } from '../kit/trainer-job.js';

const directory = realpathSync(temporaryDirectory());
const file = (name: string, content: string | Buffer): string => {
  writeFileSync(join(directory, name), content);
  return `file:${name}`;
};
const model = readFileSync(goldenPath('formats-model.gguf'));
const csv = (rows: string[][]): string => [['product', 'description'], ...rows].map((row) => row.join(',')).join('\n');
const rows = Array.from({ length: 20 }, (_, i) => [`p${i}`, `text ${i}`]);
const withNaN = (): Buffer => {
  const bytes = Buffer.from(model);
  bytes.writeFloatLE(NaN, bytes.length - 4); // output_norm.weight is last
  return bytes;
};

const good = {
  name: 'run',
  model: { uri: file('model.gguf', model) },
  dataset: { uri: file('data.csv', csv(rows)), split: { test: 4 } },
  format: { template: { prompt: 'Q {product} A' }, response: '{description}', maxLength: 64 },
  evaluate: { testRows: 1, maxNewTokens: 2 },
};

let temporal: TestWorkflowEnvironment;
beforeAll(async () => {
  temporal = await startTemporal();
});
afterAll(() => temporal.teardown());

/** Runs the pipeline's own stages, up to baseline, on an input; tells how the run failed and what is left of it. */
async function refusal(input: unknown) {
  const config = loadConfig({ TEMPER_STORE: pathToFileURL(join(directory, randomUUID())).href, TEMPER_CACHE: join(directory, 'cache'), TEMPER_DATA_ROOTS: directory });
  const jobs: TrainerJob[] = [];
  const trainer = createRunTrainer({
    command: [process.execPath, '--import', 'tsx', fileURLToPath(new URL('../../workers/trainer.ts', import.meta.url))], watchdogMs: 60_000, graceMs: 5_000,
  });
  const services = {
    ...createServices(config, silentLog, new AbortController().signal),
    runTrainer: ((job: TrainerJob, options: RunTrainerOptions) => {
      jobs.push(job);
      return trainer({ ...job, backend: 'cpu' }, options);
    }) as RunTrainer,
  };
  const activities = createStageActivities([createValidateStage(sourceSettings(config)), ingestStage, formatStage, baselineStage], services);
  return withWorkers(temporal, activities, async (taskQueue) => {
    const handle = await temporal.client.workflow.start<(input: unknown) => Promise<FineTuneResult>>(fineTuneWorkflow, { taskQueue, workflowId: randomUUID(), args: [input] });
    const error: unknown = await handle.result().catch((caught: unknown) => caught);
    if (!(error instanceof WorkflowFailedError)) throw error instanceof Error ? error : new Error('expected the run to fail');
    const { events } = await handle.fetchHistory();
    const attempts = events!.flatMap(({ activityTaskStartedEventAttributes: started }) => (started ? [started.attempt] : []));
    const { type, nonRetryable, details } = error.cause as ApplicationFailure;
    const work = join(config.cacheDirectory, 'work');
    return {
      type, nonRetryable, attempts, engineStarts: jobs.length,
      problems: (details as [Problem[]])[0].map(({ path, message }) => `${path}: ${message}`),
      left: [...(existsSync(work) ? readdirSync(work) : []), ...(await services.store.list('stages/'))].map((name) => name.split('/').slice(0, 2).join('/')),
    };
  });
}

const once = { type: 'InvalidInput', nonRetryable: true };

describe('bad input ends a run at the first attempt, with every problem by its path', () => {
  it('in validate, before anything is made', async () => {
    expect(await refusal({ ...good, modle: 1, lora: { rank: 64, targetModules: ['q_prj', 'k_proj'] }, dataset: { uri: 'file:none.csv' } })).toEqual({
      ...once, attempts: [1], engineStarts: 0, left: [],
      problems: [
        expect.stringMatching(/^modle: unknown key/),
        `dataset.uri: expected a file or directory at ${join(directory, 'none.csv')}, got none`,
        expect.stringMatching(/^lora\.targetModules\[0\]: unknown module 'q_prj'/),
        expect.stringMatching(/^lora\.rank: expected less than 16/),
      ],
    });
  });

  it.each([['text'], [[]]])('in validate, for an input that is no object: %j', async (input) => {
    expect(await refusal(input)).toMatchObject({ ...once, attempts: [1], problems: [expect.stringMatching(/^config: expected an object/)] });
  });

  it('in ingest, when all rows are dropped', async () => {
    const dataset = { uri: file('empty-cells.csv', csv(rows.map(([product]) => [product, ' ']))), split: { test: 4 } };
    expect(await refusal({ ...good, dataset })).toEqual({
      ...once, attempts: [1, 1], engineStarts: 0, left: [],
      problems: ['dataset.uri: expected rows with text in product, description, got 0 of the 20 rows of empty-cells.csv (20 with an empty column and 0 duplicates were dropped)'],
    });
  });

  it('in format, when a row keeps no token to train', async () => {
    const dataset = { uri: file('long.csv', csv([...rows, ['x'.repeat(400), 'y']])), split: { test: 4 } };
    expect(await refusal({ ...good, dataset })).toEqual({
      ...once, attempts: [1, 1, 1], engineStarts: 0, left: ['stages/ingest'],
      problems: [expect.stringMatching(/^format\.maxLength: (train|test) split: expected every row to keep a token of its response within 64 tokens, got none in row \d+ /)],
    });
  });

  it('in the engine process, when weights are not numbers', async () => {
    expect(await refusal({ ...good, model: { uri: file('nan.gguf', withNaN()) } })).toEqual({
      ...once, attempts: [1, 1, 1, 1], engineStarts: 1, left: expect.arrayContaining(['stages/ingest', 'stages/format']),
      problems: [expect.stringMatching(/^model\.uri: nan\.gguf: tensor model\.norm\.weight: expected finite values, got NaN at index 31$/)],
    });
  });
});
