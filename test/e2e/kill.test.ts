import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { FineTuneInput } from '../../contracts/fine-tune-config.js';
import type { FineTuneResult } from '../../contracts/pipeline.js';
import { patiently, startLiveStack, type LiveStack } from '../kit/live-stack.js';
import { trainerOf, gone } from '../kit/processes.js';
import { temporaryDirectory } from '../kit/temporary.js';
import { writeTinyRun } from '../kit/tiny-run.js';

const directory = temporaryDirectory();
let stack: LiveStack;
let input: FineTuneInput;
let undisturbed: FineTuneResult;

beforeAll(async () => {
  input = await writeTinyRun(directory);
  stack = await startLiveStack(directory);
  undisturbed = await (await stack.run(input, 'undisturbed')).result();
});
afterAll(() => stack?.stopAll());

const adapterDigest = ({ artifacts }: FineTuneResult) =>
  artifacts.adapter.find(({ name }) => name === 'adapter_model.safetensors')!.sha256;

/** Trains once more: what the other stages left is reused, as far as their inputs are the same. */
async function trainAgain() {
  for (const key of await stack.store.list('stages/train/')) await stack.store.remove(key);
  const logged = stack.log('gpu').length;
  const handle = await stack.run(input, `disturbed-${randomUUID()}`);
  return { handle, resumed: () => /training goes on from step (\d+)/.exec(stack.log('gpu').slice(logged))?.[1] };
}

/** Waits for the first checkpoint: training is under way, and what it has done so far can be used. */
async function checkpointed(): Promise<void> {
  while (!(await stack.store.list('checkpoints/')).some((key) => key.endsWith('/manifest.json'))) await sleep(20);
}

const reused = ({ stages }: FineTuneResult) => stages.filter((stage) => stage.reused).map(({ name }) => name);

describe('a training that is killed half-way goes on and ends with the very same adapter', () => {
  it('kill -9 of the engine process', async () => {
    const { handle, resumed } = await trainAgain();
    await checkpointed();
    const trainer = trainerOf(stack.pid('gpu'))!;
    process.kill(trainer, 'SIGKILL');
    const result = await handle.result();
    expect(Number(resumed())).toBeGreaterThanOrEqual(10);
    expect(adapterDigest(result)).toBe(adapterDigest(undisturbed));
    expect(reused(result)).toEqual(['ingest', 'format', 'baseline', 'merge', 'evaluate']);
  });

  it('kill -9 of the GPU worker, whose engine process does not outlive it', async () => {
    const { handle, resumed } = await trainAgain();
    await checkpointed();
    const trainer = trainerOf(stack.pid('gpu'))!;
    await stack.replace('gpu');
    await gone(trainer);
    const result = await handle.result();
    expect(Number(resumed())).toBeGreaterThanOrEqual(10);
    expect(adapterDigest(result)).toBe(adapterDigest(undisturbed));
  });

  it('kill -9 of the Temporal server', async () => {
    const { handle } = await trainAgain();
    await checkpointed();
    expect(trainerOf(stack.pid('gpu'))).toBeDefined(); // still at it
    await stack.replace('server');
    const result = await patiently(() => handle.result());
    expect(adapterDigest(result)).toBe(adapterDigest(undisturbed));
  });

  it('SIGTERM of the GPU worker, which stores a checkpoint of the very step', async () => {
    const { handle, resumed } = await trainAgain();
    await checkpointed();
    await stack.replace('gpu', 'SIGTERM');
    const [, step] = /"msg":"stored the checkpoint of step (\d+)"[^\n]*\n(?![^]*stored the checkpoint)/.exec(stack.log('gpu'))!;
    const result = await handle.result();
    expect(resumed()).toBe(step);
    expect(adapterDigest(result)).toBe(adapterDigest(undisturbed));
  });
});
