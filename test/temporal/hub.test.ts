import { randomUUID } from 'node:crypto';
import { mkdirSync, realpathSync, writeFileSync } from 'node:fs';
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { WorkflowFailedError } from '@temporalio/client';
import type { ApplicationFailure } from '@temporalio/common';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { formatStage } from '../../activities/format.js';
import { ingestStage } from '../../activities/ingest.js';
import { fetchDataset } from '../../activities/sources/datasets.js';
import { ModelCache } from '../../activities/sources/models.js';
import { createStageActivities } from '../../activities/stage-activities.js';
import { createValidateStage } from '../../activities/validate.js';
import { fineTuneWorkflow, type FineTuneResult, type Problem } from '../../contracts/pipeline.js';
import type { FormatInput, IngestInput, ReportInput } from '../../contracts/stages.js';
import { loadConfig } from '../../temporal.config.js';
import { createServices, sourceSettings } from '../../workers/services.js';
import { fakeActivities } from '../kit/fake-activities.js';
import { goldenPath } from '../kit/golden.js';
import { startHub, type Hub } from '../kit/hub-server.js';
import { temporaryDirectory } from '../kit/temporary.js';
import { startTemporal, withWorkers } from '../kit/temporal.js';
import { silentLog } from '../kit/trainer-job.js';

const directory = realpathSync(temporaryDirectory());
const csv = (from: number) => `product,description\n${Array.from({ length: 20 }, (_, i) => `p${from + i},d${from + i}`).join('\n')}\n`;
for (const name of ['model', 'data']) mkdirSync(join(directory, name));
copyFileSync(goldenPath('formats-model.gguf'), join(directory, 'model/tiny.gguf'));
writeFileSync(join(directory, 'data/train-a.csv'), csv(0));
writeFileSync(join(directory, 'data/train-b.csv'), csv(20));
writeFileSync(join(directory, 'data/test.csv'), csv(40));

let temporal: TestWorkflowEnvironment;
let hub: Hub;
beforeAll(async () => {
  hub = await startHub({ models: { 'tiny/llama': join(directory, 'model'), 'tiny/gated': join(directory, 'model') }, datasets: { 'tiny/products': join(directory, 'data') }, gated: ['tiny/gated'] });
  temporal = await startTemporal();
});
afterAll(async () => {
  await temporal.teardown();
  await hub.close();
});

const input = {
  name: 'run', model: { uri: 'hf://tiny/llama' }, dataset: { uri: 'hf://tiny/products', split: { test: 4 } },
  format: { template: { prompt: 'Q {product} A' }, response: '{description}', maxLength: 64 },
};

/** Runs the pipeline with its own stages up to format on a machine with empty caches; what comes after is played. */
async function run(change: object) {
  const config = loadConfig({ TEMPER_STORE: pathToFileURL(join(directory, randomUUID())).href, TEMPER_CACHE: join(directory, randomUUID()), TEMPER_DATA_ROOTS: directory });
  const settings = { ...sourceSettings(config), hub: { endpoint: hub.endpoint, cacheDirectory: join(config.cacheDirectory, 'hub'), offline: false } };
  const services = {
    ...createServices(config, silentLog, new AbortController().signal),
    models: new ModelCache(settings), fetchDataset: (...[ref, progress]: [Parameters<typeof fetchDataset>[0], Parameters<typeof fetchDataset>[2]?]) => fetchDataset(ref, settings, progress),
  };
  const { activities, calls } = fakeActivities(createStageActivities([createValidateStage(settings), ingestStage, formatStage], services));
  const called = <T>(stage: string) => calls.find((call) => call.stage === stage)!.request.input as T;
  return withWorkers(temporal, activities, async (taskQueue) => {
    const handle = await temporal.client.workflow.start<(input: unknown) => Promise<FineTuneResult>>(fineTuneWorkflow, { taskQueue, workflowId: randomUUID(), args: [{ ...input, ...change }] });
    const result = await handle.result().catch((error: unknown) => error);
    return { result, called, stages: calls.map(({ stage }) => stage) };
  });
}

it('a run takes model and dataset from the hub, each pinned to the commit that the report names', async () => {
  const { result, called } = await run({});
  expect(result).toMatchObject({ name: 'run' });
  const [model, dataset] = ['tiny/llama', 'tiny/products'].map((name) => hub.commit(name));
  expect([called<IngestInput>('ingest').file].flat().map(({ uri }) => uri)).toEqual(['train-a.csv', 'train-b.csv'].map((name) => `hf://datasets/tiny/products@${dataset}/${name}`));
  expect(called<FormatInput>('format').model.files.map(({ uri }) => uri)).toEqual([`hf://models/tiny/llama@${model}/tiny.gguf`]);
  expect([called<ReportInput>('report').dataset!].flat()).toHaveLength(2);
  expect(called<ReportInput>('report').ingest.report).toMatchObject({ read: 40, train: 36, test: 4 });
});

it('a gated model ends a run at the first attempt, with what to do', async () => {
  const { result, stages } = await run({ model: { uri: 'hf://tiny/gated' } });
  if (!(result instanceof WorkflowFailedError)) throw new Error('expected the run to fail');
  const { type, nonRetryable, details } = result.cause as ApplicationFailure;
  expect({ type, nonRetryable, stages }).toEqual({ type: 'InvalidInput', nonRetryable: true, stages: ['validate'] });
  expect((details as [Problem[]])[0]).toEqual([{ path: 'model.uri', message: expect.stringMatching(/^the model tiny\/gated is gated: ask for access at http:\S+\/tiny\/gated, then set HF_TOKEN/) as string }]);
});
