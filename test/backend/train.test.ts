import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { memory, tidy, type Variable, fill } from '@tensorflow/tfjs-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { LlamaModel } from '../../engine/model/load.js';
import type { ParameterValues } from '../../engine/model/adapter.js';
import { selectBackend } from '../../engine/tensor/backends.js';
import { checkpointName, readCheckpoint, writeCheckpoint, type TrainingState } from '../../engine/train/checkpoint.js';
import { digestOf, trainAdapter, type TrainHooks, type TrainOutcome } from '../../engine/train/train.js';
import { relativeError } from '../kit/golden.js';
import { loadSmallModel, smallLora, smallTrain } from '../kit/small-model.js';
import { randomRows } from '../kit/token-rows.js';

let model: LlamaModel;
let directory: string;
const trainRows = randomRows(13, { vocabulary: 128, longest: 18 });
const testRows = randomRows(5, { vocabulary: 128, longest: 18, seed: 2 });

beforeAll(async () => {
  await selectBackend();
  model = await loadSmallModel({ dtype: 'nf4', doubleQuant: true });
  directory = await mkdtemp(join(tmpdir(), 'temper-train-'));
});
afterAll(() => rm(directory, { recursive: true, force: true }));

const bytesOf = (values: ReadonlyMap<string, ParameterValues>): Buffer =>
  Buffer.concat([...values.values()].map(({ values }) => Buffer.from(values.buffer, values.byteOffset, values.byteLength)));
const adapterBytes = async ({ adapter }: TrainOutcome): Promise<Buffer> => bytesOf(await adapter.values());

const train = (options: Parameters<typeof smallTrain>[0], hooks?: TrainHooks, resume?: TrainingState, lora: Parameters<typeof smallLora>[0] = {}) =>
  trainAdapter({ model, lora: smallLora(lora), train: smallTrain(options), trainRows, testRows, resume }, hooks);

describe('a training that is interrupted', () => {
  it.each<[string, Parameters<typeof smallLora>[0], Parameters<typeof smallTrain>[0]]>([
    ['without dropout', {}, {}],
    ['with dropout', { dropout: 0.2 }, {}],
    ['with DoRA, dropout, LoRA+ and noise', { useDora: true, dropout: 0.2, loraPlusRatio: 4 }, { neftuneNoiseAlpha: 5 }],
    ['with embedding and head in full', { targetModules: ['q_proj', 'up_proj'], modulesToSave: ['embed_tokens', 'lm_head'] }, { checkpointing: true }],
  ])('ends, resumed from its checkpoint on disk, in the bytes of an undisturbed one: %s', async (name, changes, course) => {
    const options = { steps: 8, checkpointEvery: 50, ...course };
    const whole = await train(options, {}, undefined, changes);

    const training = digestOf({ model, lora: smallLora(changes), train: smallTrain(options), trainRows });
    const path = join(directory, name, checkpointName(4));
    let steps = 0;
    const first = await train(options, {
      onStep: () => void steps++,
      isInterrupted: () => steps === 4,
      onCheckpoint: async (step, state) => writeCheckpoint(path, await state(), training).then(() => expect(step).toBe(4)),
    }, undefined, changes);
    expect(first.finished).toBe(false);
    expect((await adapterBytes(first)).equals(await adapterBytes(whole))).toBe(false);

    const second = await train(options, {}, await readCheckpoint(path, training), changes);
    expect(second.finished).toBe(true);
    expect((await adapterBytes(second)).equals(await adapterBytes(whole))).toBe(true);
    expect(second.history).toEqual(whole.history);
  });

  it('may go on with smaller micro-batches, but not with another seed', () => {
    const digest = (options: Parameters<typeof smallTrain>[0]) => digestOf({ model, lora: smallLora(), train: smallTrain(options), trainRows });
    expect(digest({ batchSize: 1, accumulation: 4 })).toBe(digest({ batchSize: 2, accumulation: 2 }));
    expect(digest({ seed: 1 })).not.toBe(digest({ seed: 2 }));
    const base = { model, lora: smallLora(), train: smallTrain(), trainRows };
    const initial = (value: number) => new Map([['a', { shape: [1], values: Float32Array.of(value) }]]);
    expect(new Set([digestOf(base), digestOf({ ...base, lora: smallLora({ loraPlusRatio: 2 }) }), digestOf({ ...base, initial: initial(1) }), digestOf({ ...base, initial: initial(2) })]).size).toBe(4);
  });
});

describe('a training on rows that teach nothing about the test rows', () => {
  // Its held-out loss rises from some step on.
  const options = { steps: 20, evalEvery: 2, learningRate: 3e-2 };
  const evalsOf = ({ history }: TrainOutcome) => history.log_history.flatMap((entry) => ('eval_loss' in entry ? [entry] : []));

  it('ends early when evaluations bring no gain', async () => {
    const whole = await train(options);
    const losses = evalsOf(whole).map(({ eval_loss: loss }) => loss);
    const stop = losses.findIndex((_, i) => i >= 1 && Math.min(...losses.slice(0, i - 1)) <= Math.min(losses[i - 1], losses[i]));
    expect(stop).toBeGreaterThan(0);
    expect(stop).toBeLessThan(losses.length - 1);

    const early = await train({ ...options, earlyStopping: { patience: 2, minDelta: 0 } });
    expect(early.finished).toBe(true);
    expect(early.history.global_step).toBe(2 * (stop + 1));
    expect(evalsOf(early)).toEqual(evalsOf(whole).slice(0, stop + 1));
  });

  it('keeps the adapter of its best evaluation, also when it was resumed after that', async () => {
    const whole = await train({ ...options, keep: 'best' });
    const best = whole.history.best_global_step!;
    expect(best).toBeLessThan(20);
    // A run that ends at the best step, by the same schedule, has the same adapter.
    let atBest: Buffer | undefined;
    const states: TrainingState[] = [];
    const last = await train({ ...options, schedule: 'linear', checkpointEvery: 2 }, {
      onCheckpoint: async (step, state) => void (step === best && (atBest = bytesOf((await state()).adapter))),
    });
    expect((await adapterBytes(whole)).equals(atBest!)).toBe(true);
    expect((await adapterBytes(last)).equals(atBest!)).toBe(false);

    const path = join(directory, 'best', checkpointName(best + 2));
    await train({ ...options, keep: 'best', checkpointEvery: best + 2 }, {
      onCheckpoint: async (_step, state) => void (states.length === 0 && states.push(await state()) && (await writeCheckpoint(path, states[0], 'best'))),
    });
    const resumed = await train({ ...options, keep: 'best' }, {}, await readCheckpoint(path, 'best'));
    expect((await adapterBytes(resumed)).equals(atBest!)).toBe(true);
  });
});

describe('a checkpoint', () => {
  const write = async (name: string): Promise<string> => {
    const path = join(directory, name);
    await train({ steps: 2, checkpointEvery: 1 }, { onCheckpoint: async (_step, state) => writeCheckpoint(path, await state(), 'this') });
    return path;
  };

  it('is refused without its manifest', async () => {
    const path = await write('no-manifest');
    await rm(join(path, 'checkpoint.json'));
    await expect(readCheckpoint(path, 'this')).rejects.toThrow('checkpoint.json: expected to exist, got none: the checkpoint is incomplete');
  });

  it('is refused with every damage named', async () => {
    const path = await write('damaged');
    const moments = await readFile(join(path, 'moments.safetensors'));
    moments[moments.length - 1] ^= 1;
    await writeFile(join(path, 'moments.safetensors'), moments);
    await cp(join(path, 'checkpoint.json'), join(path, 'adapter.safetensors'));
    await expect(readCheckpoint(path, 'this')).rejects.toThrow(/adapter.safetensors: expected \d+ bytes, got \d+\n.*moments.safetensors: expected sha256/s);
  });

  it('is refused by another training', async () => {
    await expect(readCheckpoint(await write('other'), 'that')).rejects.toThrow('expected a checkpoint of this training');
  });
});

describe('an effective batch', () => {
  it('gives the same steps whether it is cut into 1, 2 or 4 micro-batches', async () => {
    const [whole, ...cut] = await Promise.all([[4, 1], [2, 2], [1, 4]].map(([batchSize, accumulation]) => train({ steps: 5, batchSize, accumulation })));
    for (const outcome of cut) {
      const expected = await whole.adapter.values();
      for (const [name, { values }] of await outcome.adapter.values()) expect(relativeError(values, expected.get(name)!.values), name).toBeLessThan(1e-3);
    }
  });

  it('gives the same bytes with blocks recomputed in the backward pass', async () => {
    const kept = await train({ steps: 3 }, {}, undefined, { dropout: 0.1 });
    const recomputed = await train({ steps: 3, checkpointing: true }, {}, undefined, { dropout: 0.1 });
    expect((await adapterBytes(recomputed)).equals(await adapterBytes(kept))).toBe(true);
  });
});

describe('training', () => {
  it('keeps no tensor beside the adapter', async () => {
    const outcome = await train({ steps: 1 });
    outcome.adapter.dispose();
    const before = memory().numTensors;
    const again = await train({ steps: 3 });
    expect(memory().numTensors - before).toBe(again.adapter.parameters().length);
  });

  it('evaluates at the end of each epoch and at the end', async () => {
    const { history } = await train({ steps: undefined, epochs: 1.5, batchSize: 2, accumulation: 2 });
    const evaluations = history.log_history.filter((entry) => 'eval_loss' in entry);
    expect(evaluations.map(({ step }) => step)).toEqual([4, 6]);
    expect(history).toMatchObject({ global_step: 6, max_steps: 6, num_train_epochs: 2 });
  });

  it('stops at a loss that is not finite, and names step and tensor', async () => {
    let poisoned: Variable | undefined;
    const failing = train({ steps: 4 }, {
      onStart: (adapter) => (poisoned = adapter.parameters().find(({ name }) => name.includes('layers.1.mlp.up_proj.lora_B'))!.variable),
      onStep: ({ step }) => {
        if (step === 2) tidy(() => poisoned!.assign(fill(poisoned!.shape, NaN)));
      },
    });
    await expect(failing).rejects.toMatchObject({
      failure: 'nanLoss', code: 'nan_loss',
      message: 'step 3: loss: expected a finite number, got none; the first tensor that is not finite is base_model.model.model.layers.1.mlp.up_proj.lora_B.weight',
    });
  });
});
