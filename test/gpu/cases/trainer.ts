import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { findBackend, memory, setBackend } from '@tensorflow/tfjs-core';
import { modelShapes, randomModel } from '../../../bench/random-model.js';
import { loraSchema, trainSchema, type TrainConfig } from '../../../contracts/fine-tune-config.js';
import type { CudaBackend } from '../../../engine/cuda/backend.js';
import type { TokenRows } from '../../../engine/data/batches.js';
import { targetModules } from '../../../engine/formats/linear-modules.js';
import { readCheckpoint, writeCheckpoint, type TrainingState } from '../../../engine/train/checkpoint.js';
import { trainAdapter, type TrainHooks } from '../../../engine/train/train.js';

/** Rows of many lengths, so that batches fall into several widths. */
function rowsOf(count: number, shortest: number, longest: number): TokenRows {
  const length = (row: number) => shortest + ((row * 37) % (longest - shortest + 1));
  return {
    count, length,
    ids: (row) => Int32Array.from({ length: length(row) }, (_, i) => 3 + ((row * 131 + i * 17) % (modelShapes.tiny.vocabSize - 3))),
    mask: (row) => new Uint8Array(length(row)).fill(1).fill(0, 0, 1),
  };
}

interface Run {
  bytes: Buffer;
  losses: number[];
  plans: string[];
  finished: boolean;
}

/** A training of the tiny model on cuda, with dropout. */
export async function train(options: Partial<TrainConfig>, hooks: TrainHooks = {}, { resume, trainRows = rowsOf(48, 4, 60) }: { resume?: TrainingState; trainRows?: TokenRows } = {}): Promise<Run> {
  await setBackend('cuda');
  const plans: string[] = [];
  const { adapter, history, finished } = await trainAdapter(
    {
      model: tinyModel(),
      lora: loraSchema.parse({ rank: 8, alpha: 16, dropout: 0.1, targetModules: [...targetModules] }),
      train: trainSchema.parse({ steps: 12, batchSize: 4, accumulation: 4, learningRate: 3e-3, checkpointEvery: 1000, evalEvery: 5, ...options }),
      trainRows, testRows: rowsOf(9, 4, 60), resume,
    },
    { onPlan: (description) => void plans.push(description), ...hooks },
  );
  const values = await adapter.values();
  adapter.dispose();
  return {
    bytes: Buffer.concat([...values.values()].map(({ values }) => Buffer.from(values.buffer, values.byteOffset, values.byteLength))),
    losses: history.log_history.flatMap((entry) => ('loss' in entry ? [entry.loss] : [])), plans, finished,
  };
}

let tiny: ReturnType<typeof randomModel> | undefined;
const tinyModel = () => (tiny ??= randomModel(modelShapes.tiny, { dtype: 'nf4', doubleQuant: true }));

/** Runs killed-training.ts, and kills it when it has done a step. @returns how it ended */
async function trainInProcess(directory: string, killedAt?: number): Promise<number | string> {
  const script = fileURLToPath(new URL('./killed-training.ts', import.meta.url));
  const child = spawn(process.execPath, ['--import', 'tsx', script, directory], { stdio: ['ignore', 'pipe', 'inherit'] });
  const exit = once(child, 'exit');
  for await (const line of createInterface(child.stdout)) if (line === `step ${killedAt}`) child.kill('SIGKILL');
  const [code, signal] = await exit;
  return (code as number | null) ?? (signal as string);
}

/** Checks of the trainer on a GPU; each throws where it fails. */
export const trainerCases: { name: string; check: () => Promise<void> }[] = [
  {
    name: 'computes micro-batches together, learns, and gives the same bytes twice',
    check: async () => {
      const [first, second] = [await train({}), await train({})];
      assert.match(first.plans.join(), /4 micro-batches are computed together/);
      assert.ok(first.losses.at(-1)! < first.losses[0] * 0.95, `losses ${first.losses.join(' ')}`);
      assert.ok(first.bytes.equals(second.bytes));
    },
  },
  {
    name: 'ends, interrupted and resumed from its checkpoint on disk, in the bytes of an undisturbed run',
    check: async () => {
      const directory = await mkdtemp(join(tmpdir(), 'temper-gpu-'));
      try {
        const path = join(directory, 'checkpoint');
        const whole = await train({});
        let steps = 0;
        const first = await train({}, {
          onStep: () => void steps++,
          isInterrupted: () => steps === 7,
          onCheckpoint: async (_step, state) => writeCheckpoint(path, await state(), 'this'),
        });
        assert.equal(first.finished, false);
        const second = await train({}, {}, { resume: await readCheckpoint(path, 'this') });
        assert.ok(second.bytes.equals(whole.bytes));
        assert.deepEqual(second.losses, whole.losses);
      } finally {
        await rm(directory, { recursive: true });
      }
    },
  },
  {
    name: 'ends, killed without warning and started anew, in the bytes of an undisturbed run',
    check: async () => {
      const directory = await mkdtemp(join(tmpdir(), 'temper-gpu-'));
      try {
        assert.equal(await trainInProcess(directory, 7), 'SIGKILL');
        assert.equal(await trainInProcess(directory), 0);
        assert.ok((await readFile(join(directory, 'adapter'))).equals((await train({})).bytes));
        assert.notEqual(await readFile(join(directory, 'from'), 'utf8'), '0');
      } finally {
        await rm(directory, { recursive: true });
      }
    },
  },
  {
    name: 'gives the same losses, but for rounding, with blocks recomputed and their inputs in the host\'s memory',
    check: async () => {
      const options: Partial<TrainConfig> = { batchSize: 16, accumulation: 1 };
      const kept = await train(options), recomputed = await train({ ...options, checkpointing: true });
      assert.match(recomputed.plans.join(), /recomputed/);
      recomputed.losses.forEach((loss, i) => assert.ok(Math.abs(loss / kept.losses[i] - 1) < 1e-3, `step ${i + 1}: ${loss}, expected ${kept.losses[i]}`));
    },
  },
  {
    name: 'leaks neither tensors nor device memory over 1,000 steps',
    check: async () => {
      const { device } = findBackend('cuda') as CudaBackend;
      const used = () => ({ tensors: memory().numTensors, blocks: device.memory.memory().blocks, bytes: device.memory.memory().inUse, reserved: device.memory.memory().reserved });
      let early: ReturnType<typeof used> | undefined;
      await train({ steps: 1000, evalEvery: 10_000 }, {
        onStep: ({ step }) => {
          if (step === 100) early = used();
          if (step === 999) assert.deepEqual(used(), early);
        },
      }, { trainRows: rowsOf(48, 32, 32) }); // of one width, so that all is recorded early
      const before = used();
      await train({ steps: 3 });
      assert.deepEqual(used(), before);
    },
  },
];
