import { readFile } from 'node:fs/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { readTokenFile } from '../../engine/data/token-file.js';
import type { StepLog } from '../../engine/train/history.js';
import { evaluateLoss } from '../../engine/train/evaluate.js';
import { trainAdapter } from '../../engine/train/train.js';
import { selectBackend } from '../../engine/tensor/backends.js';
import type { BaseDtype } from '../../engine/tensor/frozen-weight.js';
import { goldenPath, readGolden, relativeError } from '../kit/golden.js';
import { loadSmallModel, peftTensors, smallLora, smallTrain } from '../kit/small-model.js';

interface Expected {
  settings: { learningRate: number; steps: number; batchSize: number; accumulation: number; warmupRatio: number; weightDecay: number; maxGradNorm: number };
  bases: Record<string, { loss: number[]; learningRate: number[]; gradNorm: number[]; epoch: number[]; finalLoss: number }>;
}
let expected: Expected;

beforeAll(async () => {
  await selectBackend();
  const { settings, ...bases } = JSON.parse(await readFile(goldenPath('train/expected.json'), 'utf8')) as Expected['bases'] & { settings: Expected['settings'] };
  expected = { settings: settings as Expected['settings'], bases };
});

const train20 = async (base: BaseDtype) => {
  const rows = await readTokenFile(goldenPath('train/rows.safetensors'));
  const model = await loadSmallModel(base);
  const initial = await peftTensors(goldenPath('train/init'));
  const inOrder = () => Array.from({ length: rows.count }, (_, row) => row);
  const { adapter, history } = await trainAdapter({ model, lora: smallLora(), train: smallTrain(expected.settings), trainRows: rows, testRows: rows, initial, order: inOrder });
  const steps = history.log_history.filter((entry): entry is StepLog => 'loss' in entry);
  return { steps, adapter, finalLoss: (await evaluateLoss({ model, adapter }, rows)).loss };
};

describe('20 steps of training, epochs ending in a partial accumulation', () => {
  it.each<BaseDtype>([{ dtype: 'f32' }, { dtype: 'int8' }, { dtype: 'nf4', doubleQuant: true }])('equal PEFT step by step on base $dtype', async (base) => {
    const { steps, finalLoss } = await train20(base);
    const golden = expected.bases[base.dtype];
    expect(steps).toHaveLength(20);
    steps.forEach((step, i) => {
      expect(Math.abs(step.loss - golden.loss[i]), `loss of step ${i + 1}`).toBeLessThan(1e-3);
      expect(step.learning_rate, `learning rate of step ${i + 1}`).toBeCloseTo(golden.learningRate[i], 10);
      expect(Math.abs(step.grad_norm / golden.gradNorm[i] - 1), `gradient norm of step ${i + 1}`).toBeLessThan(2e-3);
      expect(step.epoch, `epoch of step ${i + 1}`).toBeCloseTo(golden.epoch[i], 10);
    });
    expect(Math.abs(finalLoss - golden.finalLoss)).toBeLessThan(1e-3);
  });

  it('end with the weights of PEFT', async () => {
    const golden = await readGolden('train/final_f32.safetensors');
    const { adapter } = await train20({ dtype: 'f32' });
    for (const [name, { values }] of await adapter.values()) expect(relativeError(values, golden(name).data), name).toBeLessThan(5e-3);
  });
});
