/**
 * Records the histories (protobuf, temporal.api.history.v1.History) that test/temporal/replay.test.ts replays:
 * `npx tsx test/histories/record.ts NAME…`. Run it only for a new case, or when the workflow is changed on purpose and no run of
 * the old one is left anywhere.
 */
import { randomUUID } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { ApplicationFailure } from '@temporalio/common';
import proto from '@temporalio/proto';
import { fineTuneWorkflow, progressSignal, type StageActivities } from '../../contracts/pipeline.js';
import type { FineTuneInput } from '../../contracts/fine-tune-config.js';
import { fakeActivities, someInput } from '../kit/fake-activities.js';
import { startTemporal, withWorkers } from '../kit/temporal.js';

const { History } = proto.temporal.api.history.v1;
const environment = await startTemporal();

async function record(name: string, activities: StageActivities, input: FineTuneInput): Promise<void> {
  const history = await withWorkers(environment, activities, async (taskQueue) => {
    const handle = await environment.client.workflow.start(fineTuneWorkflow, { taskQueue, workflowId: `${name}-${randomUUID()}`, args: [input] });
    await handle.signal(progressSignal, { stage: 'validate', phase: 'hashing', done: 1, total: 2 });
    await handle.result().catch(() => undefined);
    return handle.fetchHistory();
  });
  await writeFile(new URL(`./${name}.binpb`, import.meta.url), History.encode(withoutTraces(history)).finish());
}

/** Blanks what tells about the machine. */
function withoutTraces<T>(value: T): T {
  if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return value;
  for (const [key, field] of Object.entries(value)) {
    if (typeof field === 'string' && ['identity', 'stackTrace'].includes(key)) Object.assign(value, { [key]: '' });
    else withoutTraces(field);
  }
  return value;
}

const succeed = fakeActivities().activities.train;
const fits = [false, true];

const cases: Record<string, () => [activities: StageActivities, input: FineTuneInput]> = {
  published: () => [fakeActivities().activities, someInput({ publish: { uri: 's3://models/tuned' } })],
  'out-of-memory-once': () => [
    fakeActivities({
      train: (request) => (fits.shift() ? succeed(request) : Promise.reject(ApplicationFailure.nonRetryable('out of memory', 'OutOfMemory'))),
    }).activities,
    someInput(),
  ],
  'nan-loss-twice': () => [
    fakeActivities({ train: () => Promise.reject(ApplicationFailure.nonRetryable('step 7: loss: expected a number, got NaN', 'NanLoss')) }).activities,
    someInput({ reuse: false }),
  ],
  'exported-to-hub': () => {
    const output = { hub: { url: 'https://huggingface.co/owner/name/tree/main', commit: 'c'.repeat(40) } };
    const publish: StageActivities['publish'] = () => Promise.resolve({ key: 'p'.repeat(64), reused: false, seconds: 1, output });
    return [fakeActivities({ publish }).activities, someInput({ export: { gguf: ['f16'] }, publish: { hub: { repo: 'owner/name' } } })];
  },
};
for (const name of process.argv.slice(2)) await record(name, ...cases[name]());
await environment.teardown();
