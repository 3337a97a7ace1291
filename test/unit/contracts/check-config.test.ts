import { describe, expect, it } from 'vitest';
import { checkConfig } from '../../../contracts/check-config.js';
import { parseSize } from '../../../contracts/fine-tune-config.js';
import { InvalidInputError } from '../../../contracts/errors.js';

const good = { name: 'a', model: { uri: 'x' }, dataset: { uri: 'x' }, format: { response: '{a}' } };

const problemsOf = (input: unknown): string[] => {
  try {
    checkConfig(input);
    return [];
  } catch (error) {
    if (!(error instanceof InvalidInputError)) throw error;
    return error.problems.map(({ path, message }) => `${path}: ${message}`).sort();
  }
};

describe('checkConfig', () => {
  it('fills in the defaults', () => {
    expect(checkConfig(good)).toMatchObject({ base: { dtype: 'nf4', doubleQuant: true }, lora: { rank: 8 }, dataset: { split: { test: 0.05, seed: 42 } } });
  });

  it('names every problem by its path at once', () => {
    const bad = { ...good, name: 'No Spaces', model: {}, lora: { alpha: -1, dropout: 1, targetModules: [] }, train: { steps: 1.5, schedule: 'poly' } };
    expect(problemsOf(bad)).toEqual([
      'lora.alpha: expected more than 0, got -1',
      'lora.dropout: expected less than 1, got 1',
      'lora.targetModules: expected at least one, got []',
      'model.uri: missing, expected a string',
      'name: expected 1 to 63 of a-z, 0-9 and -, starting with a letter or digit, got "No Spaces"',
      'train.schedule: expected linear, cosine, constant, inverse_sqrt or warmup_stable_decay, got "poly"',
      'train.steps: expected a whole number, got 1.5',
    ]);
  });

  it('refuses what cannot go out', () => {
    expect(problemsOf({ ...good, publish: {} })).toEqual(['publish.uri: expected uri or hub or both, got neither']);
    expect(problemsOf({ ...good, publish: { hub: { repo: 'name', wat: 'merged' } } })).toEqual([
      'publish.hub.repo: expected owner/name, got "name"', "publish.hub.wat: unknown key, did you mean 'what'?",
    ]);
    expect(problemsOf({ ...good, export: { gguf: ['f16', 'f16'] }, merge: { maxShardSize: '5 bytes', dtype: 'int8' } })).toEqual([
      'export.gguf: expected every type once, got ["f16","f16"]', 'merge.dtype: expected bf16, f16 or f32, got "int8"',
      'merge.maxShardSize: expected a number above 0 with KB, MB, GB, KiB, MiB or GiB, such as 5GB, got "5 bytes"',
    ]);
    expect(problemsOf({ ...good, merge: { maxShardSize: '0GB' } })).toEqual(['merge.maxShardSize: expected a number above 0 with KB, MB, GB, KiB, MiB or GiB, such as 5GB, got "0GB"']);
  });

  it.each([['5GB', 5e9], ['512MiB', 2 ** 29], ['1.5 KB', 1500]])('reads %s as %i bytes', (size, bytes) => expect(parseSize(size)).toBe(bytes));

  it('offers the key that was probably meant, and lists the keys when none is near', () => {
    expect(problemsOf({ ...good, train: { learning_rate: 1 } })).toEqual(["train.learning_rate: unknown key, did you mean 'learningRate'?"]);
    expect(problemsOf({ ...good, lora: { xyz: 1 } })).toEqual(['lora.xyz: unknown key, expected from, rank, alpha, rankPattern, alphaPattern, useRsLora, useDora, initLoraWeights, dropout, bias, targetModules, excludeModules, layersToTransform, modulesToSave or loraPlusRatio']);
  });

  it('says where in a list a value is wrong', () => {
    expect(problemsOf({ ...good, lora: { targetModules: ['q_proj', 7] } })).toEqual(['lora.targetModules[1]: expected a string, got 7']);
  });

  it('names the alternatives of a choice', () => {
    expect(problemsOf({ ...good, base: { dtype: 'nf5' } })).toEqual(['base.dtype: expected nf4, int8, bf16 or f32, got "nf5"']);
    expect(problemsOf({ ...good, format: { response: '{a}', template: 'alpacca' } })).toEqual([
      'format.template: expected alpaca, chat or an object with \'prompt\', got "alpacca"',
    ]);
  });

  it('tells an option of another alternative from an unknown one', () => {
    expect(problemsOf({ ...good, base: { dtype: 'int8', doubleQuant: true } })).toEqual(['base.doubleQuant: does not go with dtype "int8"']);
  });

  it('says what LoRA options are of no use together, and why others do not exist', () => {
    expect(problemsOf({ ...good, lora: { from: 'file:a', initLoraWeights: 'gaussian', layersToTransform: [] } })).toEqual([
      'lora.initLoraWeights: expected none with lora.from, whose weights are there, got gaussian',
      'lora.layersToTransform: expected at least one, got []',
    ]);
    expect(problemsOf({ ...good, lora: { initLoraWeights: 'pissa_niter_4' } })).toEqual([
      'lora.initLoraWeights: expected default or gaussian, which leave the base\'s weights as the adapter\'s users have them, got "pissa_niter_4"',
    ]);
    expect(problemsOf({ ...good, lora: { initLoraWeights: 'kaiming', loraPlusRatio: 0.5, modulesToSave: ['norm'] }, train: { neftuneNoiseAlpha: 0 } })).toEqual([
      'lora.initLoraWeights: expected default or gaussian, got "kaiming"',
      'lora.loraPlusRatio: expected 1 or more, got 0.5',
      'lora.modulesToSave[0]: expected embed_tokens or lm_head, got "norm"',
      'train.neftuneNoiseAlpha: expected more than 0, got 0',
    ]);
  });

  it('refuses epochs and steps together', () => {
    expect(problemsOf({ ...good, train: { epochs: 1, steps: 4 } })).toEqual(['train.steps: expected epochs or steps, got both']);
  });

  it('names settings of a schedule that has no use for them', () => {
    expect(problemsOf({ ...good, train: { schedule: 'linear', minLearningRateRatio: 0.1, decayRatio: 0.1 } })).toEqual([
      'train.decayRatio: expected the schedule warmup_stable_decay with it, got linear',
      'train.minLearningRateRatio: expected the schedule cosine or warmup_stable_decay with it, got linear',
    ]);
    expect(problemsOf({ ...good, train: { schedule: 'warmup_stable_decay', warmupRatio: 0.5, decayRatio: 0.6 } })).toEqual([
      'train.decayRatio: expected at most 0.5, what train.warmupRatio leaves of the steps, got 0.6',
    ]);
  });

  it('refuses what is not an object', () => {
    expect(problemsOf([])).toEqual(['config: expected an object, got []']);
  });
});
