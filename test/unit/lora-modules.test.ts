import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { nearest } from '../../contracts/nearest.js';
import type { LlamaConfig } from '../../engine/formats/llama-config.js';
import { adaptedModules, biasedModules, spelledTargets } from '../../engine/formats/lora-modules.js';
import type { LoraOptions } from '../../engine/formats/lora-options.js';
import { loraProblems } from '../../engine/formats/lora-problems.js';
import { describeModel } from '../../engine/formats/open-model.js';

let model: LlamaConfig;
beforeAll(async () => {
  model = await describeModel('test/golden/model/base');
});

const options = (changes: Partial<LoraOptions> = {}): LoraOptions => ({ rank: 8, alpha: 16, dropout: 0, targetModules: ['q_proj'], ...changes });
const select = (changes: Partial<LoraOptions>) => adaptedModules(model, options(changes)).map(({ path, rank, scale }) => `${path.replace(/^model\.layers\./, '')} ${rank} ${Number(scale.toFixed(4))}`);
const problems = (changes: Partial<LoraOptions>): string[] => loraProblems(model, options(changes), nearest).map(({ path, message }) => `${path}: ${message}`);

describe('the modules that options select', () => {
  interface Selection {
    options: Partial<LoraOptions>;
    /** Name, rank and scale of each, as PEFT's get_peft_model gives them. */
    modules: [string, number, number][];
  }
  const golden = JSON.parse(readFileSync('test/golden/lora-modules.json', 'utf8')) as Record<string, Selection>;

  it.each(Object.entries(golden))('are those of PEFT: %s', (_name, { options: changes, modules }) => {
    expect(problems(changes)).toEqual([]);
    const selected = adaptedModules(model, options(changes)).map(({ path, rank, scale }) => [path, rank, Number(scale.toFixed(6))]);
    expect(selected.sort()).toEqual(modules.map(([path, rank, scale]) => [path, rank, Number(scale.toFixed(6))]).sort());
  });

  it('come in the order of the model, the head last', () => {
    expect(select({ targetModules: ['lm_head', 'v_proj', 'q_proj'] })).toEqual([
      '0.self_attn.q_proj 8 2', '0.self_attn.v_proj 8 2', '1.self_attn.q_proj 8 2', '1.self_attn.v_proj 8 2', 'lm_head 8 2',
    ]);
  });

  it('may be those of some layers with all-linear, which PEFT takes when its names are spelled out', () => {
    const names = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];
    expect(problems({ targetModules: 'all-linear', layersToTransform: [1] })).toEqual([]);
    expect(select({ targetModules: 'all-linear', layersToTransform: [1] })).toEqual(select({ targetModules: names, layersToTransform: [1] }));
    expect(spelledTargets(options({ targetModules: 'all-linear' }))).toEqual(names);
  });

  it('have the biases that the model has', () => {
    const biased = { ...model, biases: ['q_proj', 'k_proj', 'v_proj'] as const };
    const paths = (bias: LoraOptions['bias']) => biasedModules(biased, options({ bias, targetModules: ['q_proj', 'o_proj'] })).map(({ path }) => path.replace(/^model\.layers\./, ''));
    expect(paths('lora_only')).toEqual(['0.self_attn.q_proj', '1.self_attn.q_proj']);
    expect(paths('all')).toEqual([0, 1].flatMap((layer) => ['q', 'k', 'v'].map((name) => `${layer}.self_attn.${name}_proj`)));
    expect(paths('none')).toEqual([]);
  });
});

describe('options that would be passed over are refused', () => {
  const has = 'this model has: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head';
  it.each<[string, Partial<LoraOptions>, string[]]>([
    ['an unknown module', { targetModules: ['q_proj', 'q_prj'] }, [`targetModules[1]: unknown module 'q_prj', did you mean 'q_proj'? ${has}`]],
    ['the embedding', { targetModules: ['embed_tokens'] }, ["targetModules[0]: expected linear layers, got 'embed_tokens', the embedding; modulesToSave trains it in full"]],
    ['a module twice', { targetModules: ['q_proj', 'q_proj'] }, ["targetModules[1]: expected every module once, got 'q_proj' twice"]],
    ['no module', { targetModules: [] }, ['targetModules: expected at least one, got none']],
    ['a pattern of no module', { targetModules: 'q_proj' }, [`targetModules: expected all-linear or a regular expression that matches whole names of linear layers, such as model.layers.0.self_attn.q_proj, got 'q_proj'; ${has}`]],
    ['a pattern of other modules too', { targetModules: '.*' }, ["targetModules: expected to match linear layers alone, got '.*', which matches model too"]],
    ['a broken pattern beside what else is wrong', { targetModules: ['q_proj', 'wq'], excludeModules: ['foo'], rankPattern: { '(': 2, nope: 3 }, layersToTransform: [7], bias: 'all' }, [
      "rankPattern.(: expected a regular expression, got '(': Unterminated group", `targetModules[1]: unknown module 'wq'; ${has}`, `excludeModules[0]: unknown module 'foo'; ${has}`,
      'layersToTransform[0]: expected less than 2, the number of layers, got 7', 'bias: expected none, as linear layers of llama have none, got all',
    ]],
    ['a broken pattern that selects', { targetModules: '(q_proj', excludeModules: ['foo'], rankPattern: { nope: 3 } }, [
      "targetModules: expected a regular expression, got '(q_proj': Unterminated group", `excludeModules[0]: unknown module 'foo'; ${has}`,
    ]],
    ['a broken pattern', { targetModules: '(q_proj' }, ["targetModules: expected a regular expression, got '(q_proj': Unterminated group"]],
    ['nothing left out', { excludeModules: ['k_proj'] }, ['excludeModules: expected to leave out some of the targets, got ["k_proj"], which leaves out none']],
    ['everything left out', { excludeModules: '.*q_proj' }, ['excludeModules: expected to leave some of the targets, got a pattern for all of them']],
    ['a layer too many', { layersToTransform: [0, 2, 0] }, ['layersToTransform[1]: expected less than 2, the number of layers, got 2', 'layersToTransform[2]: expected every layer once, got 0 twice']],
    ['layers with a pattern', { layersToTransform: [0], targetModules: '.*q_proj' }, ["layersToTransform: expected a list of targetModules with it, got a regular expression, '.*q_proj', which can name the layers itself"]],
    ['layers with the head', { layersToTransform: [0], targetModules: ['q_proj', 'lm_head'] }, ['layersToTransform: expected no lm_head among the targetModules, got it, which is in no layer']],
    ['a rank for nothing', { rankPattern: { v_proj: 4 } }, ['rankPattern.v_proj: expected to match an adapted module before other patterns do, got a pattern that sets none']],
    ['an alpha behind another', { alphaPattern: { q_proj: 4, 'layers.0.self_attn.q_proj': 8 } }, ['alphaPattern.layers.0.self_attn.q_proj: expected to match an adapted module before other patterns do, got a pattern that sets none']],
    ['too high a rank', { rank: 64, targetModules: ['q_proj', 'k_proj'], rankPattern: { k_proj: 40 } }, [
      'rank: expected less than 64, the smaller side of q_proj [64×64], got 64', 'rankPattern.k_proj: expected less than 32, the smaller side of k_proj [32×64], got 40',
    ]],
    ['a head both adapted and in full', { targetModules: ['lm_head'], modulesToSave: ['lm_head'] }, ["modulesToSave[0]: expected no module that targetModules adapts, got 'lm_head'"]],
    ['biases of a model without', { bias: 'all' }, ['bias: expected none, as linear layers of llama have none, got all']],
  ])('%s', (_name, changes, expected) => expect(problems(changes)).toEqual(expected));

  it('a pattern of query norms too, in a model that has some', () => {
    const changes = { targetModules: '.*q_.*' };
    expect(loraProblems(model, options(changes))).toEqual([]);
    expect(loraProblems({ ...model, qkNorm: true }, options(changes))).toEqual([{ path: 'targetModules', message: "expected to match linear layers alone, got '.*q_.*', which matches model.layers.0.self_attn.q_norm too" }]);
  });

  it('biases of layers without', () => {
    const found = loraProblems({ ...model, biases: ['q_proj', 'k_proj', 'v_proj'] }, options({ bias: 'lora_only', targetModules: ['o_proj'] }));
    expect(found).toEqual([{ path: 'bias', message: 'expected none, as of the linear layers q_proj, k_proj, v_proj alone have one, got lora_only' }]);
  });
});
