import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { evidence, trainingFacts } from '../../activities/report/facts.js';
import type { ReportData } from '../../activities/report/report-data.js';
import { loraSchema, type BaseConfig } from '../../contracts/fine-tune-config.js';
import type { ReportInput } from '../../contracts/stages.js';
import { reportInput } from '../kit/report-input.js';
import { stageKit } from '../kit/stage.js';

let kit: Awaited<ReturnType<typeof stageKit>>;
let input: ReportInput;
beforeAll(async () => {
  kit = await stageKit();
  input = await reportInput(kit.context.store);
});
afterAll(() => kit.remove());

/** What a report says of an adapter. */
function adapterOf(lora: object, train: object = {}): string {
  const config = { ...input.config, lora: loraSchema.parse(lora), train: { ...input.config.train, ...train } };
  return new Map(trainingFacts({ ...input, config } as unknown as ReportData)).get('Adapter')!;
}

describe('an adapter in a report', () => {
  it('is told in few words when it is a plain one', () => {
    expect(adapterOf({ rank: 16, alpha: 8, targetModules: ['q_proj', 'v_proj'] })).toBe('LoRA of rank 16, scaled by 8/16 = 0.5, dropout 0.05, on q_proj, v_proj');
  });

  it('is told with every option that it has', () => {
    const lora = {
      rank: 16, alpha: 8, useRsLora: true, useDora: true, rankPattern: { k_proj: 4 }, alphaPattern: { 'mlp\\..*': 2 }, targetModules: 'all-linear', excludeModules: ['o_proj'],
      layersToTransform: [2, 3], bias: 'lora_only', modulesToSave: ['embed_tokens', 'lm_head'], loraPlusRatio: 16, from: 'hf://some/adapter',
    };
    expect(adapterOf(lora, { neftuneNoiseAlpha: 5 })).toBe(
      'DoRA of rank 16, scaled by 8/√16 = 2, rank 4 for k_proj, alpha 2 for mlp\\..*, dropout 0.05, on all-linear but o_proj of layers 2, 3, with the biases of these, '
      + 'with embed_tokens and lm_head in full, LoRA+ of ratio 16, NEFTune noise of alpha 5, from hf://some/adapter',
    );
  });
});

describe('what the figures rest on', () => {
  const told = (evaluateBase?: BaseConfig) => evidence({ ...input, questions: [], config: { ...input.config, evaluate: { ...input.config.evaluate, base: evaluateBase } } } as unknown as ReportData);

  it('names both ways of storing the base when they are two', () => {
    expect(told({ dtype: 'bf16' })).toContain('For these figures the base is stored as bf16; training and merging have it as NF4, double-quantised.');
    for (const same of [undefined, input.config.base]) expect(told(same)).not.toContain('stored as');
  });
});

describe('a training in a report', () => {
  const facts = (train: object, summary: object = {}) => new Map(trainingFacts({ ...input, config: { ...input.config, train: { ...input.config.train, ...train } }, train: { ...input.train, summary: { ...input.train.summary, ...summary } } } as unknown as ReportData));

  it('is said to have ended early when early stopping left out steps', () => {
    const [ended, earlyStopping] = ['ended early, as the held-out loss fell no more', { patience: 1, minDelta: 0 }];
    expect(facts({ epochs: 3, earlyStopping }).get('Work done')).toContain(ended);
    expect(facts({ epochs: undefined, steps: 200, earlyStopping }).get('Work done')).toContain(ended);
    for (const train of [{ epochs: 2, earlyStopping }, { epochs: undefined, steps: 128, earlyStopping }, { epochs: 3 }]) expect(facts(train).get('Work done')).not.toContain(ended);
  });

  it('names the steps in which the rate decays', () => {
    expect(facts({ schedule: 'warmup_stable_decay' }).get('Learning rate')).toBe('0.0002 at its peak, warmup_stable_decay, warm-up 3%, decay over the last 20% of the steps');
    expect(facts({ schedule: 'warmup_stable_decay', decayRatio: 0.5, minLearningRateRatio: 0.1 }).get('Learning rate')).toBe('0.0002 at its peak, warmup_stable_decay down to 10% of it, warm-up 3%, decay over the last 50% of the steps');
  });
});
