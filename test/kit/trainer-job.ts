import { fileURLToPath } from 'node:url';
import { pino, type Logger } from 'pino';
import { createRunTrainer, type RunTrainer, type TrainerLaunch } from '../../activities/run-trainer.js';
import { fineTuneConfigSchema, type FineTuneConfig } from '../../contracts/fine-tune-config.js';
import type { ModelRef } from '../../contracts/stages.js';
import type { TrainerJob } from '../../contracts/trainer-messages.js';
import type { FakeTrainerMode } from './fake-trainer.js';

export const silentLog: Logger = pino({ level: 'silent' });

/** Runs test/kit/fake-trainer.ts. */
export const fakeTrainer = (mode: FakeTrainerMode, limits: Partial<Pick<TrainerLaunch, 'watchdogMs' | 'graceMs'>> = {}): RunTrainer =>
  createRunTrainer({
    command: [process.execPath, '--import', 'tsx', fileURLToPath(new URL('./fake-trainer.ts', import.meta.url))],
    env: { ...process.env, FAKE_TRAINER: mode },
    watchdogMs: 60_000,
    graceMs: 60_000,
    ...limits,
  });

export const someModel: ModelRef = {
  uri: 'file:model',
  format: 'safetensors',
  files: [{ name: 'config.json', uri: 'file:///model/config.json', sha256: 'c'.repeat(64), bytes: 2, mediaType: 'application/json' }],
  architecture: {
    name: 'llama', layers: 2, hiddenSize: 8, intermediateSize: 16, heads: 2, kvHeads: 1, headDim: 4, vocabSize: 32, contextLength: 64, parameters: 100,
  },
};

/** A complete configuration with every default, as `validate` returns it. */
export const someConfig = (change: Partial<Record<keyof FineTuneConfig, unknown>> = {}): FineTuneConfig =>
  fineTuneConfigSchema.parse({
    name: 'test', model: { uri: 'file:model' }, dataset: { uri: 'file:rows.jsonl' },
    format: { instruction: 'Describe {product}', response: '{description}' }, ...change,
  });

export function trainJob(outputDirectory: string): Extract<TrainerJob, { kind: 'train' }> {
  const { base, lora, train } = someConfig();
  return {
    kind: 'train', model: someModel, modelDirectory: '/model', base, lora, train, trainTokens: '/train', testTokens: '/test', outputDirectory,
  };
}
