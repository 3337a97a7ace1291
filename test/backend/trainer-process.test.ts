import { cp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { EvaluationPrompt, ModelRef } from '../../contracts/stages.js';
import type { TrainerResult } from '../../contracts/trainer-messages.js';
import { writeTokenFile } from '../../engine/data/token-file.js';
import { TokenTable } from '../../engine/data/token-table.js';
import { openModel } from '../../engine/formats/open-model.js';
import { peftTensorName, readPeftAdapter } from '../../engine/formats/peft-adapter.js';
import { dequantizedSource } from '../../engine/model/dequantized-source.js';
import { createRunTrainer } from '../../activities/run-trainer.js';
import type { TrainerError } from '../../activities/trainer-error.js';
import { runEngine, trainerProgram, type EngineRun } from '../kit/engine-process.js';
import { goldenPath } from '../kit/golden.js';
import { smallLora, smallTrain } from '../kit/small-model.js';
import { temporaryDirectory } from '../kit/temporary.js';
import { silentLog } from '../kit/trainer-job.js';
import { randomRows } from '../kit/token-rows.js';

const directory = temporaryDirectory();
const modelDirectory = join(directory, 'model');
const trainTokens = join(directory, 'train.safetensors');
const testTokens = join(directory, 'test.safetensors');
const model: ModelRef = {
  uri: 'small', format: 'safetensors',
  files: [{ name: 'model.safetensors', uri: 'file:///model.safetensors', sha256: '0'.repeat(64), bytes: 1, mediaType: 'application/octet-stream' }],
  architecture: { name: 'llama', layers: 2, hiddenSize: 64, intermediateSize: 128, heads: 4, kvHeads: 2, headDim: 16, vocabSize: 128, contextLength: 64, parameters: 1 },
};
const common = { model, modelDirectory };
const base = { dtype: 'nf4', doubleQuant: true } as const;

beforeAll(async () => {
  await cp(goldenPath('model/base'), modelDirectory, { recursive: true });
  await cp(goldenPath('tokenizer-bytelevel.json'), join(modelDirectory, 'tokenizer.json'));
  await writeFile(join(modelDirectory, 'tokenizer_config.json'), JSON.stringify({ eos_token: '<|im_end|>', bos_token: '<|im_start|>' }));
  for (const [path, seed] of [[trainTokens, 1], [testTokens, 2]] as const) {
    const rows = randomRows(9, { vocabulary: 128, longest: 18, seed });
    await writeTokenFile(path, TokenTable.of(Array.from({ length: rows.count }, (_, row) => ({ ids: rows.ids(row), mask: rows.mask(row) }))));
  }
});

const trainJob = (name: string, options: object = {}) => ({
  kind: 'train', ...common, base, lora: smallLora({ dropout: 0.1 }), train: smallTrain({ steps: 6, checkpointEvery: 4 }),
  trainTokens, testTokens, outputDirectory: join(directory, name), ...options,
});
const names = ({ events }: EngineRun) => events.filter(({ event }) => event !== 'progress').map(({ event }) => event);
function resultOf<K extends TrainerResult['kind']>({ events }: EngineRun, kind: K): Extract<TrainerResult, { kind: K }> {
  const last = events.at(-1)!;
  if (last.event !== 'done' || last.result.kind !== kind) throw new Error(`last event: expected the result of ${kind}, got ${JSON.stringify(last)}`);
  return last.result as Extract<TrainerResult, { kind: K }>;
}
const adapterOf = (result: Extract<TrainerResult, { kind: 'train' }>) => readFile(join(result.adapterDirectory, 'adapter_model.safetensors'));

describe('the engine process', () => {
  it('trains, stops at SIGTERM with a checkpoint, goes on from it to the same adapter; then evaluates and merges it', async () => {
    const whole = await runEngine(trainJob('whole'));
    expect(whole.exitCode).toBe(0);
    expect(names(whole)).toEqual(['started', 'step', 'step', 'step', 'eval', 'step', 'checkpoint', 'step', 'step', 'eval', 'done']);

    const first = await runEngine(trainJob('first'), (event, child) => {
      if (event.event === 'step' && event.step === 2) child.kill('SIGTERM');
    });
    expect(first.exitCode).toBe(0);
    expect(names(first).slice(-2)).toEqual(['checkpoint', 'interrupted']);
    const checkpoint = first.events.findLast((event) => event.event === 'checkpoint')!;
    const second = await runEngine(trainJob('second', { resumeFrom: checkpoint.directory }));
    const [result, undisturbed] = [resultOf(second, 'train'), resultOf(whole, 'train')];
    expect((await adapterOf(result)).equals(await adapterOf(undisturbed))).toBe(true);
    expect(await readFile(result.historyFile, 'utf8')).toBe(await readFile(undisturbed.historyFile, 'utf8'));
    expect(result.summary).toEqual(undisturbed.summary);

    const onward = resultOf(await runEngine(trainJob('onward', { adapterDirectory: result.adapterDirectory, train: smallTrain({ steps: 1, warmupRatio: 1 }) })), 'train');
    expect((await adapterOf(onward)).equals(await adapterOf(result))).toBe(true); // its one step has a learning rate of 0

    const prompt: EvaluationPrompt = { prompt: 'a', promptIds: [20, 21, 22], ownPrompt: 'b', ownPromptIds: [30, 31], reference: 'c', stop: '' };
    const evaluated = resultOf(await runEngine({ kind: 'evaluate', ...common, base, adapterDirectory: result.adapterDirectory, testTokens, prompts: [prompt], maxNewTokens: 5 }), 'evaluate');
    expect(evaluated.metrics.evalLoss).toBeCloseTo(result.summary.evalLoss, 5);
    expect(evaluated.answers.map(({ format, prompt }) => [format, prompt])).toEqual([['training', 'a'], ['own', 'b']]);

    const merged = resultOf(await runEngine({
      kind: 'merge', ...common, base, adapterDirectory: result.adapterDirectory, testTokens, prompts: [prompt], outputDirectory: join(directory, 'output'),
      merge: { dtype: 'bf16', maxShardSize: '5GB', measureTokens: 64 }, export: { gguf: [] },
    }), 'merge');
    expect(merged.measured!.ways.map(({ onto }) => onto)).toEqual(['original', 'dequantized']);
    const { tensors } = await readPeftAdapter(result.adapterDirectory);
    const [a, b] = (['A', 'B'] as const).map((part) => tensors.get(peftTensorName('model.layers.1.mlp.up_proj', part))!.values);
    const name = 'model.layers.1.mlp.up_proj.weight';
    const [source, target] = [await openModel(modelDirectory), await openModel(merged.directory)];
    const original = await (merged.kept.onto === 'dequantized' ? dequantizedSource(source, base) : source).read(name);
    const sum = await target.read(name);
    await Promise.all([source.close(), target.close()]);
    for (const [row, column] of [[0, 0], [17, 40], [127, 63]]) {
      const delta = a.reduce((total, _, i) => (i % 64 === column ? total + a[i] * b[row * 4 + Math.floor(i / 64)] : total), 0) * 2; // alpha 8 / rank 4
      const expected = original[row * 64 + column] + delta;
      expect(Math.abs(sum[row * 64 + column] - expected)).toBeLessThanOrEqual(Math.abs(expected) * 2 ** -8); // bf16
    }
  });

  it('measures and merges what is trained beside low-rank branches', async () => {
    const lora = smallLora({ targetModules: ['q_proj', 'up_proj'], useDora: true, modulesToSave: ['embed_tokens', 'lm_head'], loraPlusRatio: 4, rankPattern: { up_proj: 2 } });
    const { adapterDirectory, summary } = resultOf(await runEngine(trainJob('more', { lora, train: smallTrain({ steps: 6, neftuneNoiseAlpha: 5 }) })), 'train');
    expect(summary.trainableParameters).toBe(2 * 128 * 64 + 2 * (4 * 64 + 64 * 4 + 64 + 2 * 64 + 128 * 2 + 128));
    const { metrics } = resultOf(await runEngine({ kind: 'evaluate', ...common, base, adapterDirectory, testTokens, prompts: [], maxNewTokens: 5 }), 'evaluate');
    expect(metrics.evalLoss).toBeCloseTo(summary.evalLoss, 5);
    const { measured } = resultOf(await runEngine({
      kind: 'merge', ...common, base, adapterDirectory, testTokens, prompts: [], outputDirectory: join(directory, 'more'),
      merge: { dtype: 'f32', maxShardSize: '5GB', measureTokens: 64 }, export: { gguf: [] },
    }), 'merge');
    const ways = new Map(measured!.ways.map(({ onto, kl }) => [onto, kl]));
    expect(ways.get('dequantized')).toBeLessThan(1e-6);
    expect(ways.get('original')).toBeGreaterThan(1e-4);
  });

  it('ends when its parent is gone', async () => {
    const { events, exitCode } = await runEngine(trainJob('orphan', { train: smallTrain({ steps: 100_000, checkpointEvery: 100_000, evalEvery: 100_000 }) }), (event, child) => {
      if (event.event === 'step' && event.step === 1) child.stdin!.end();
    });
    expect(exitCode).toBe(1);
    expect(events.at(-1)!.event).not.toBe('done');
  });

  it('refuses a job with every problem in it', async () => {
    const { events, exitCode } = await runEngine({ ...trainJob('bad'), lora: { ...smallLora(), rank: 0 }, surprise: 1 });
    expect(exitCode).toBe(1);
    expect(events).toMatchObject([{ event: 'failed', failure: 'invalidInput', code: 'bad_job' }]);
    expect((events[0] as { message: string }).message).toMatch(/job\.lora\.rank: .*\n.*surprise/s);
  });

  it('refuses a checkpoint that has been damaged', async () => {
    const path = join(directory, 'damage');
    const { events } = await runEngine(trainJob('damage'));
    const checkpoint = events.find((event) => event.event === 'checkpoint')!;
    await rm(join(checkpoint.directory, 'moments.safetensors'));
    const refused = await runEngine(trainJob('damaged', { resumeFrom: join(path, 'checkpoint-00000004') }));
    expect(refused.events.at(-1)).toMatchObject({ event: 'failed', failure: 'invalidInput', code: 'bad_checkpoint' });
    expect((refused.events.at(-1) as { message: string }).message).toMatch(/moments\.safetensors: expected \d+ bytes, got no file/);
  });

  it('is refused by the input that cannot be used, named as the user knows it', async () => {
    const run = createRunTrainer({ command: [process.execPath, '--import', 'tsx', trainerProgram], watchdogMs: 60_000, graceMs: 5_000 });
    const torn = join(directory, 'torn.safetensors');
    await writeFile(torn, (await readFile(testTokens)).subarray(0, 100));
    const job = { kind: 'evaluate' as const, ...common, base, testTokens, prompts: [], maxNewTokens: 1, batchSize: 1 };
    const options = { signal: new AbortController().signal, onEvent: () => undefined, log: silentLog };
    const subject = (change: object) => run({ ...job, ...change }, options).catch((error: unknown) => (error as TrainerError).subject);
    expect(await subject({ testTokens: torn })).toBe('test tokens');
    expect(await subject({ adapterDirectory: join(directory, 'no-adapter') })).toBe('adapter');
    expect(await subject({ modelDirectory: join(directory, 'no-model') })).toBe('model.uri');
  });
});
