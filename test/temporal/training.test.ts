import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { CancelledFailure } from '@temporalio/common';
import type { WorkflowFailedError } from '@temporalio/client';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { RunTrainer } from '../../activities/run-trainer.js';
import { createStageActivities, type WorkerServices } from '../../activities/stage-activities.js';
import { trainStage } from '../../activities/train.js';
import { fineTuneWorkflow, type FineTuneResult, type StageActivities } from '../../contracts/pipeline.js';
import type { TrainerEvent, TrainerJob } from '../../contracts/trainer-messages.js';
import type { ArtifactStore } from '../../store/artifact-store.js';
import { openStore } from '../../store/open-store.js';
import type { FakeTrainerMode } from '../kit/fake-trainer.js';
import { fakeActivities, someInput } from '../kit/fake-activities.js';
import { temporaryDirectory } from '../kit/temporary.js';
import { startTemporal, withWorkers } from '../kit/temporal.js';
import { fakeTrainer, silentLog } from '../kit/trainer-job.js';

const directory = temporaryDirectory();
let temporal: TestWorkflowEnvironment;
beforeAll(async () => {
  temporal = await startTemporal();
});
afterAll(() => temporal.teardown());

/**
 * The pipeline with the real train stage over an engine process that behaves in these ways, one an attempt.
 * `reached` resolves at the first event of a kind; `jobs` are those given to the engine.
 */
async function training(modes: FakeTrainerMode[]) {
  const store = openStore(pathToFileURL(join(directory, randomUUID())).href);
  const jobs: TrainerJob[] = [];
  const endings: string[] = [];
  const listeners = new Map<TrainerEvent['event'], () => void>();
  const reached = (event: TrainerEvent['event']) => new Promise<void>((resolve) => listeners.set(event, resolve));
  const runTrainer: RunTrainer = (job, options) => {
    const mode = modes[Math.min(jobs.length, modes.length - 1)];
    jobs.push(job);
    return fakeTrainer(mode)(job, {
      ...options,
      onEvent: async (event) => {
        await options.onEvent(event);
        listeners.get(event.event)?.();
      },
    }).finally(() => endings.push(mode));
  };
  const stopping = new AbortController();
  const services: WorkerServices = {
    store, runTrainer, log: silentLog, stopping: stopping.signal, keepCheckpoints: 2, workRoot: join(directory, 'work'), cacheDirectory: join(directory, 'cache'),
    models: { open: () => Promise.resolve(directory) },
    fetchDataset: () => Promise.reject(new Error('not needed')),
  };
  const tokens = await store.putBytes(Buffer.from('tokens'), 'application/octet-stream');
  const format: StageActivities['format'] = async (request) => {
    const outcome = await fakeActivities().activities.format(request);
    return { ...outcome, output: { ...outcome.output, train: tokens, test: tokens } };
  };
  const { train } = createStageActivities([trainStage], services);
  return { store, jobs, endings, reached, stopping, activities: fakeActivities({ format, train }).activities };
}

const start = (taskQueue: string) =>
  temporal.client.workflow.start<() => Promise<FineTuneResult>>(fineTuneWorkflow, {
    taskQueue, workflowId: randomUUID(), args: [someInput()] as unknown as [],
  });

const manifests = async (store: ArtifactStore) => (await store.list('checkpoints/')).filter((key) => key.endsWith('manifest.json'));

describe('training', () => {
  it('leaves neither checkpoint nor process behind once it has its result', async () => {
    const { store, activities, endings } = await training(['done']);
    const result = await withWorkers(temporal, activities, async (taskQueue) => (await start(taskQueue)).result());
    expect(result.artifacts.adapter.map(({ name }) => name)).toEqual(['adapter_model.safetensors', 'README.md']);
    expect(await manifests(store)).toEqual([]);
    expect(endings).toEqual(['done']);
  });

  it('stops with a checkpoint when the run is cancelled', async () => {
    const { store, activities, reached, endings } = await training(['endless']);
    await withWorkers(temporal, activities, async (taskQueue) => {
      const stepped = reached('step');
      const handle = await start(taskQueue);
      await stepped;
      await handle.cancel();
      const error = await handle.result().catch((err: unknown) => err as WorkflowFailedError);
      expect((error as WorkflowFailedError).cause).toBeInstanceOf(CancelledFailure);
      expect((await handle.describe()).status.name).toBe('CANCELLED');
      expect(endings).toEqual(['endless']); // the engine was gone before the run ended
    });
    expect(await manifests(store)).toHaveLength(1);
  });

  it('goes on from the checkpoint of a cancelled run when the same is started again', async () => {
    const { store, activities, reached, jobs } = await training(['endless', 'done']);
    await withWorkers(temporal, activities, async (taskQueue) => {
      const stepped = reached('step');
      const first = await start(taskQueue);
      await stepped;
      await first.cancel();
      await first.result().catch(() => undefined);
      await (await start(taskQueue)).result();
    });
    expect(jobs.map((job) => job.kind === 'train' && job.resumeFrom !== undefined)).toEqual([false, true]);
    expect(await manifests(store)).toEqual([]);
  });

  it('stops when the run is terminated', async () => {
    const { activities, reached, endings } = await training(['endless']);
    await withWorkers(temporal, activities, async (taskQueue) => {
      const stepped = reached('step');
      const handle = await start(taskQueue);
      await stepped;
      await handle.terminate();
      while (endings.length === 0) await sleep(50);
    });
    expect(endings).toEqual(['endless']);
  });

  it('is handed back with a checkpoint when its worker is told to stop', async () => {
    const { store, activities, reached, stopping, jobs } = await training(['endless']);
    const handle = await withWorkers(temporal, activities, async (taskQueue) => {
      const stepped = reached('step');
      const started = await start(taskQueue);
      await stepped;
      stopping.abort();
      while ((await started.describe()).raw.pendingActivities?.[0]?.lastFailure == null) await sleep(50);
      return started;
    });
    const { pendingActivities } = (await handle.describe()).raw;
    expect(pendingActivities?.[0].lastFailure?.applicationFailureInfo?.type).toBe('WorkerStopped');
    expect(jobs).toHaveLength(1);
    expect(await manifests(store)).toHaveLength(1);
    await handle.terminate();
  });

  it('goes on with half the micro-batch from the checkpoint of the whole one when memory runs out', async () => {
    const { activities, jobs } = await training(['crash', 'fail-outOfMemory', 'done']);
    const result = await withWorkers(temporal, activities, async (taskQueue) => (await start(taskQueue)).result());
    expect(jobs.map((job) => job.kind === 'train' && [job.train.batchSize, job.resumeFrom?.slice(-8)])).toEqual([
      [4, undefined], [4, '00000001'], [2, '00000001'],
    ]);
    expect(result.train).toMatchObject({ batchSize: 2, accumulation: 8 });
  });

  it('is tried again from the newest checkpoint when the engine dies', async () => {
    const { activities, jobs } = await training(['crash', 'done']);
    const result = await withWorkers(temporal, activities, async (taskQueue) => (await start(taskQueue)).result());
    expect(jobs.map((job) => job.kind === 'train' && job.resumeFrom?.slice(-8))).toEqual([undefined, '00000001']);
    expect(result.train.steps).toBe(3);
  });
});
