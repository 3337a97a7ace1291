import { randomUUID } from 'node:crypto';
import { ActivityFailure, ApplicationFailure, defineSearchAttributeKey, TypedSearchAttributes, WorkflowNotFoundError } from '@temporalio/common';
import { WorkflowFailedError, type WorkflowHandle } from '@temporalio/client';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fineTuneWorkflow, progressSignal, statusQuery, type FineTuneResult, type RunStatus, type StageActivities } from '../../contracts/pipeline.js';
import type { TrainInput } from '../../contracts/stages.js';
import type { FineTuneInput } from '../../contracts/fine-tune-config.js';
import { fakeActivities, someInput, type Call } from '../kit/fake-activities.js';
import { startTemporal, withWorkers } from '../kit/temporal.js';

let temporal: TestWorkflowEnvironment;
beforeAll(async () => {
  temporal = await startTemporal();
});
afterAll(() => temporal.teardown());

type FineTune = (input: FineTuneInput) => Promise<FineTuneResult>;

const start = (taskQueue: string, input: FineTuneInput) =>
  temporal.client.workflow.start<FineTune>(fineTuneWorkflow, { taskQueue, workflowId: randomUUID(), args: [input] });

/** Runs the workflow over some activities to its end. */
const run = (activities: StageActivities, input = someInput()): Promise<FineTuneResult> =>
  withWorkers(temporal, activities, async (taskQueue) => (await start(taskQueue, input)).result());

/** The failure that the user sees. */
const failure = (result: Promise<unknown>): Promise<ApplicationFailure> =>
  result.then(
    () => Promise.reject(new Error('expected the run to fail')),
    (err: unknown) => {
      expect(err).toBeInstanceOf(WorkflowFailedError);
      expect((err as WorkflowFailedError).cause).toBeInstanceOf(ApplicationFailure);
      return (err as WorkflowFailedError).cause as ApplicationFailure;
    },
  );

const batches = (calls: Call[]) =>
  calls.filter(({ stage }) => stage === 'train').map(({ request }) => {
    const { train } = request.input as TrainInput;
    return [train.batchSize, train.accumulation];
  });

const succeed = fakeActivities().activities.train;

/** A train activity that fails in these ways, one a call, and then succeeds. */
function failing(...failures: ApplicationFailure[]): StageActivities['train'] {
  const left = [...failures];
  return async (request) => {
    const next = left.shift();
    if (next) throw next;
    return succeed(request);
  };
}

const outOfMemory = () => ApplicationFailure.nonRetryable('cuMemAlloc(2 GiB): out of memory', 'OutOfMemory');
const nanLoss = () => ApplicationFailure.nonRetryable('step 7: layers.3.q_proj.lora_B: expected finite gradients, got NaN', 'NanLoss');

describe('fineTune', () => {
  it('runs the stages in order and returns figures and references', async () => {
    const { activities, calls } = fakeActivities();
    const result = await run(activities);
    expect(calls.map(({ stage }) => stage)).toEqual(['validate', 'ingest', 'format', 'baseline', 'train', 'merge', 'evaluate', 'report']);
    expect(result).toMatchObject({
      name: 'test', backend: 'fake', notes: [],
      baseline: { evalLoss: 3 }, tuned: { evalLoss: 2 },
      train: { steps: 3, batchSize: 4, accumulation: 4 },
      artifacts: { report: { html: { uri: 'file:///store/report.html' } } },
    });
    expect(result.artifacts).not.toHaveProperty('manifest');
    expect(result.stages.map(({ name }) => name)).toEqual(calls.map(({ stage }) => stage));
  });

  it('measures the base without and the tuned model with the adapter, on the same questions', async () => {
    const { activities, calls } = fakeActivities();
    await run(activities);
    const input = (name: string) => calls.find(({ stage }) => stage === name)!.request.input as Record<string, unknown>;
    const { adapter: none, ...asked } = input('baseline');
    const { adapter, ...askedAgain } = input('evaluate');
    expect(none).toBeNull();
    expect(adapter).toEqual((input('merge') as { adapter: unknown }).adapter);
    expect(askedAgain).toEqual(asked);
  });

  it('publishes adapter, model and report when it is told where', async () => {
    const { activities, calls } = fakeActivities();
    const { artifacts } = await run(activities, someInput({ publish: { uri: 's3://models/tuned' } }));
    expect(artifacts).toMatchObject({ manifest: { uri: 'file:///store/manifest.json' }, latest: 'file:///published/test/latest.json' });
    const { uri, files } = calls.at(-1)!.request.input as { uri: string; files: { name: string }[] };
    expect(uri).toBe('s3://models/tuned');
    expect(files.map(({ name }) => name)).toEqual([
      'adapter/adapter_config.json', 'adapter/adapter_model.safetensors', 'adapter/README.md', 'adapter/trainer_state.json',
      'merged/config.json', 'merged/model.safetensors', 'merged/README.md', 'gguf/model-f16.gguf', 'report.html', 'report.md',
    ]);
  });

  it('hands on where the hub is, and tells what it holds', async () => {
    const hub = { url: 'https://hub/owner/name/tree/main', commit: 'c'.repeat(40) };
    const publish: StageActivities['publish'] = () => Promise.resolve({ key: 'p', reused: false, seconds: 1, output: { hub } });
    const { activities, calls } = fakeActivities({ publish });
    const result = await run(activities, someInput({ publish: { hub: { repo: 'owner/name', what: 'merged' } } }));
    expect(calls.at(-1)!.request.input).toMatchObject({ hub: { repo: 'owner/name', what: 'merged', private: true, revision: 'main' }, name: 'test' });
    expect(result.artifacts).toMatchObject({ hub });
    expect(result.artifacts.manifest).toBeUndefined();
  });

  it('returns how the model was merged, and its GGUF files', async () => {
    const { activities } = fakeActivities();
    const told: StageActivities['merge'] = async (request) => {
      const outcome = await activities.merge(request);
      return { ...outcome, output: { ...outcome.output, notes: ['The adapter has no GGUF.'] } };
    };
    const { merge, artifacts, notes } = await run(fakeActivities({ merge: told }).activities);
    expect(notes).toEqual(['The adapter has no GGUF.']);
    expect(merge).toMatchObject({ kept: { onto: 'original' }, measured: { ways: [{ kl: 0 }] } });
    expect(artifacts.gguf!.map(({ file }) => file.name)).toEqual(['model-f16.gguf']);
    expect(artifacts.merged.map(({ name }) => name)).toContain('README.md');
  });

  it('says which stages were reused', async () => {
    const baseline: StageActivities['baseline'] = async (request) => ({ ...(await fakeActivities().activities.baseline(request)), reused: true });
    const { stages } = await run(fakeActivities({ baseline }).activities);
    expect(stages.filter(({ reused }) => reused).map(({ name }) => name)).toEqual(['baseline']);
  });

  it('gives every stage a scope of the run when nothing shall be reused, and none otherwise', async () => {
    const shared = fakeActivities();
    await run(shared.activities);
    expect(shared.calls.every(({ request }) => request.scope === undefined)).toBe(true);

    const alone = fakeActivities();
    const first = await withWorkers(temporal, alone.activities, async (taskQueue) => {
      const handle = await start(taskQueue, someInput({ reuse: false }));
      await handle.result();
      return handle.firstExecutionRunId;
    });
    expect(new Set(alone.calls.map(({ request }) => request.scope))).toEqual(new Set([first]));
  });
});

describe('out of memory', () => {
  it('halves the micro-batch and keeps the rows of a step, until it fits', async () => {
    const { activities, calls } = fakeActivities({ train: failing(outOfMemory(), outOfMemory()) });
    const result = await run(activities);
    expect(batches(calls)).toEqual([[4, 4], [2, 8], [1, 16]]);
    expect(result.train).toMatchObject({ batchSize: 1, accumulation: 16 });
    expect(result.notes).toEqual([
      'Out of memory with 4 × 4 rows a step: went on with 2 × 8 rows a step.',
      'Out of memory with 2 × 8 rows a step: went on with 1 × 16 rows a step.',
    ]);
  });

  it('keeps the rows of a step also where they are odd', async () => {
    const { activities, calls } = fakeActivities({ train: failing(outOfMemory(), outOfMemory()) });
    await run(activities, someInput({ train: { batchSize: 7, accumulation: 3 } }));
    expect(batches(calls)).toEqual([[7, 3], [3, 7], [1, 21]]);
  });

  it('gives up at one row, with advice', async () => {
    const { activities, calls } = fakeActivities({ train: failing(outOfMemory(), outOfMemory()) });
    const error = await failure(run(activities, someInput({ train: { batchSize: 2 } })));
    expect(batches(calls)).toEqual([[2, 4], [1, 8]]);
    expect(error).toMatchObject({ type: 'OutOfMemory', nonRetryable: true });
    expect(error.message).toBe(
      'train: cuMemAlloc(2 GiB): out of memory\nOne row a micro-batch does not fit: turn on train.checkpointing, lower format.maxLength or choose base nf4.',
    );
  });

  it('writes the batch that was used into the memo', async () => {
    const { activities } = fakeActivities({ train: failing(outOfMemory()) });
    const { memo } = await withWorkers(temporal, activities, async (taskQueue) => {
      const handle = await start(taskQueue, someInput());
      await handle.result();
      return handle.describe();
    });
    expect(memo).toMatchObject({ batchSize: 2, accumulation: 8 });
  });
});

describe('a loss that is not a number', () => {
  it('sends training back to its checkpoint once', async () => {
    const { activities, calls } = fakeActivities({ train: failing(nanLoss()) });
    const { notes } = await run(activities);
    expect(batches(calls)).toEqual([[4, 4], [4, 4]]);
    expect(notes).toEqual(['step 7: layers.3.q_proj.lora_B: expected finite gradients, got NaN. Went back to the last good checkpoint.']);
  });

  it('fails the run the second time, naming step and tensor', async () => {
    const { activities, calls } = fakeActivities({ train: failing(nanLoss(), nanLoss()) });
    const error = await failure(run(activities));
    expect(batches(calls)).toHaveLength(2);
    expect(error).toMatchObject({ type: 'NanLoss', message: 'train: step 7: layers.3.q_proj.lora_B: expected finite gradients, got NaN' });
  });
});

describe('failures', () => {
  it('end the run at once on bad input, with every problem', async () => {
    const problems = [{ path: 'lora.rank', message: 'expected 1 or more, got 0' }, { path: 'modle', message: 'unknown key' }];
    const { activities, calls } = fakeActivities({
      validate: () => Promise.reject(ApplicationFailure.create({ type: 'InvalidInput', nonRetryable: true, message: 'lora.rank: …', details: [problems] })),
    });
    const error = await failure(run(activities));
    expect(calls).toHaveLength(1);
    expect(error).toMatchObject({ type: 'InvalidInput', nonRetryable: true, message: 'validate: lora.rank: …', details: [problems] });
  });

  it('of an input that is nothing at all come from validation too', async () => {
    const validate: StageActivities['validate'] = ({ input }) =>
      Promise.reject(ApplicationFailure.nonRetryable(`expected an object, got ${JSON.stringify(input)}`, 'InvalidInput'));
    const error = await failure(run(fakeActivities({ validate }).activities, null as unknown as FineTuneInput));
    expect(error).toMatchObject({ type: 'InvalidInput', message: 'validate: expected an object, got null' });
  });

  it('of the surroundings are retried', async () => {
    let attempts = 0;
    const ingest: StageActivities['ingest'] = async (request) => {
      attempts += 1;
      if (attempts < 2) throw new Error('the store is out of reach');
      return fakeActivities().activities.ingest(request);
    };
    await run(fakeActivities({ ingest }).activities);
    expect(attempts).toBe(2);
  });

  it('keep the type, the reason and the chain behind them', async () => {
    const merge: StageActivities['merge'] = () => Promise.reject(ApplicationFailure.nonRetryable('disk full', 'Internal'));
    const error = await failure(run(fakeActivities({ merge }).activities));
    expect(error).toMatchObject({ type: 'Internal', message: 'merge: disk full' });
    expect(error.cause).not.toBeInstanceOf(ActivityFailure);
  });
});

describe('what a run tells', () => {
  /** A train activity that waits until it is let go. */
  function waiting() {
    let letGo = () => {};
    const gate = new Promise<void>((resolve) => { letGo = resolve; });
    const train: StageActivities['train'] = (request) => gate.then(() => succeed(request));
    return { train, letGo: () => letGo() };
  }

  const figures = { step: 2, steps: 3, epoch: 0.66, loss: 2.75, learningRate: 1e-4, tokensPerSecond: 321, etaSeconds: 75 };

  const reached = async (handle: WorkflowHandle, stage: string): Promise<RunStatus> => {
    for (;;) {
      const status = await handle.query<RunStatus>(statusQuery).catch((err: unknown) => {
        if (err instanceof WorkflowNotFoundError) return undefined;
        throw err;
      });
      if (status?.stage === stage) return status;
    }
  };

  it('answers the status query with stages, live figures and artifacts', async () => {
    const { train, letGo } = waiting();
    await withWorkers(temporal, fakeActivities({ train }).activities, async (taskQueue) => {
      const handle = await start(taskQueue, someInput());
      await reached(handle, 'train');
      await handle.signal(progressSignal, { stage: 'train', phase: 'training', done: 2, total: 3, train: figures });
      await handle.signal(progressSignal, { stage: 'baseline', phase: 'late', done: 0, total: 9 });
      const during = await handle.query<RunStatus>(statusQuery);
      expect(during).toMatchObject({ stage: 'train', progress: { phase: 'training', done: 2 }, train: figures, artifacts: {} });
      expect(during.stages.find(({ name }) => name === 'baseline')).toMatchObject({ state: 'done', seconds: 1 });

      letGo();
      await handle.result();
      const after = await handle.query<RunStatus>(statusQuery);
      expect(after).toMatchObject({
        stage: 'done', train: figures,
        artifacts: { adapter: 'file:///store/adapter_model.safetensors', merged: 'file:///store/model.safetensors', report: 'file:///store/report.html' },
      });
      expect(after.stages.map(({ state }) => state)).toEqual([...Array<string>(8).fill('done'), 'skipped']);
    });
  });

  it('shows a table and the figures of training on its page in the UI', async () => {
    const { train, letGo } = waiting();
    await withWorkers(temporal, fakeActivities({ train }).activities, async (taskQueue) => {
      const handle = await start(taskQueue, someInput());
      await reached(handle, 'train');
      await handle.signal(progressSignal, { stage: 'train', phase: 'training', done: 2, total: 3, train: figures });
      const { currentDetails } = await handle.query<{ currentDetails: string }>('__temporal_workflow_metadata');
      expect(currentDetails).toContain('| baseline | ✓ done | 1.0 s |');
      expect(currentDetails).toContain('| train | ▶ running: training 66 % |  |');
      expect(currentDetails).toContain('| 2 / 3 | 0.66 | 2.7500 |  | 1.00e-4 | 321 | 1 min 15 s |');
      letGo();
      await handle.result();
    });
  });

  it('keeps the search attribute TemperStage up to date on runs that are started with it', async () => {
    const key = defineSearchAttributeKey('TemperStage', 'KEYWORD');
    const description = await withWorkers(temporal, fakeActivities().activities, async (taskQueue) => {
      const handle = await temporal.client.workflow.start<FineTune>(fineTuneWorkflow, {
        taskQueue, workflowId: randomUUID(), args: [someInput()], typedSearchAttributes: new TypedSearchAttributes([{ key, value: 'pending' }]),
      });
      await handle.result();
      return handle.describe();
    });
    expect(description.typedSearchAttributes.get(key)).toBe('done');
  });
});
