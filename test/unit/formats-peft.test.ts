import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { peftBiasName, peftMagnitudeName, peftSavedName, peftTensorName, readPeftAdapter, writePeftAdapter, type PeftAdapter, type PeftTensor } from '../../engine/formats/peft-adapter.js';
import { readSafetensors, writeSafetensors } from '../../engine/formats/safetensors.js';
import { temporaryDirectory } from '../kit/temporary.js';

const pair = (module: string, start: number, out: number): [string, PeftTensor][] => [
  [peftTensorName(module, 'A'), { shape: [2, 3], values: Float32Array.from({ length: 6 }, (_, i) => start + i) }],
  [peftTensorName(module, 'B'), { shape: [out, 2], values: Float32Array.from({ length: out * 2 }, (_, i) => -start - i) }],
];
const adapter: PeftAdapter = {
  config: { rank: 2, alpha: 16, dropout: 0.05, targetModules: ['v_proj', 'lm_head'], baseModel: 'smollm2-135m-instruct' },
  tensors: new Map([...pair('model.layers.0.self_attn.v_proj', 1, 4), ...pair('lm_head', 50, 7)]),
};
/** What the options that are not named above are when they are read. */
const unset = { rankPattern: {}, alphaPattern: {}, useRsLora: false, useDora: false, bias: 'none', modulesToSave: [], initLoraWeights: 'default' };
async function written(change: (config: Record<string, unknown>) => void = () => undefined, what = adapter) {
  const directory = temporaryDirectory();
  await writePeftAdapter(directory, what);
  const path = join(directory, 'adapter_config.json');
  const config = JSON.parse(readFileSync(path, 'utf8'));
  change(config);
  writeFileSync(path, JSON.stringify(config));
  return directory;
}

describe('a PEFT adapter', () => {
  it('is read as it was written', async () => {
    const read = await readPeftAdapter(await written());
    expect(read.config).toEqual({ ...adapter.config, ...unset, targetModules: ['lm_head', 'v_proj'] });
    expect(new Map([...read.tensors].sort())).toEqual(new Map([...adapter.tensors].sort()));
  });

  it('has the names that PEFT gives', async () => {
    const tensors = await readSafetensors(join(await written(), 'adapter_model.safetensors'));
    expect([...tensors.keys()].sort()).toEqual([
      'base_model.model.lm_head.lora_A.weight', 'base_model.model.lm_head.lora_B.weight',
      'base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight', 'base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight',
    ]);
  });

  it('tells Python where its base is', async () => {
    const readme = async (config: object) => readFileSync(join(await written(() => undefined, { ...adapter, config: { ...adapter.config, ...config } }), 'README.md'), 'utf8');
    expect(await readme({ baseModel: 'owner/name', revision: 'abc' })).toContain('base = AutoModelForCausalLM.from_pretrained("owner/name", revision="abc")');
    expect(await readme({ baseModel: 'path' })).toContain('base = AutoModelForCausalLM.from_pretrained("path")');
  });

  it('keeps every option', async () => {
    const options = {
      rankPattern: { 'layers.0.self_attn.v_proj': 3 }, alphaPattern: { lm_head: 4 }, useRsLora: true, useDora: true, bias: 'all' as const,
      modulesToSave: ['embed_tokens' as const], initLoraWeights: 'gaussian' as const, targetModules: '.*v_proj', excludeModules: ['layers.1.self_attn.v_proj'], layersToTransform: [0],
      revision: 'c'.repeat(40),
    };
    const config = { ...adapter.config, ...options };
    const tensors = new Map<string, PeftTensor>([
      [peftTensorName('model.layers.0.self_attn.v_proj', 'A'), { shape: [3, 3], values: new Float32Array(9) }],
      [peftTensorName('model.layers.0.self_attn.v_proj', 'B'), { shape: [4, 3], values: new Float32Array(12) }],
      [peftMagnitudeName('model.layers.0.self_attn.v_proj'), { shape: [4], values: new Float32Array(4) }],
      [peftBiasName('model.layers.0.self_attn.v_proj', true), { shape: [4], values: new Float32Array(4) }],
      [peftSavedName('embed_tokens'), { shape: [5, 3], values: new Float32Array(15) }],
    ]);
    const read = await readPeftAdapter(await written(() => undefined, { config, tensors }));
    expect(read.config).toEqual(config);
    expect(new Map([...read.tensors].sort())).toEqual(new Map([...tensors].sort()));
  });

  it('that PEFT wrote is read', async () => {
    const { config, tensors } = await readPeftAdapter('test/golden/model/adapter');
    expect(config).toMatchObject({ rank: 4, alpha: 6 });
    expect(tensors.get('base_model.model.lm_head.lora_A.weight')!.shape[0]).toBe(4);
    expect(config.targetModules).toContain('lm_head');
  });

  it.each<[string, (config: Record<string, unknown>) => void, string]>([
    ['LoRA biases and replicated layers, both named', (config) => Object.assign(config, { lora_bias: true, layer_replication: [[0, 1]] }), 'adapter_config.json: layer_replication: expected none, got [[0,1]]; lora_bias: expected none, got true'],
    ['an option of a later version', (config) => (config.use_newdora = 'yes'), 'use_newdora: expected none, got "yes"'],
    ['an initialisation that changes the base', (config) => (config.init_lora_weights = 'pissa'), 'init_lora_weights: expected a way that leaves the weights of the base as they are, got "pissa"'],
    ['another module trained in full', (config) => (config.modules_to_save = ['score']), 'modules_to_save: expected a list of embed_tokens, lm_head, got ["score"]'],
    ['another method', (config) => (config.peft_type = 'IA3'), 'peft_type: expected "LORA", got "IA3"'],
    ['no rank', (config) => delete config.r, 'r: expected a positive whole number, got nothing'],
    ['another rank than its weights', (config) => (config.r = 3), 'adapter_model.safetensors: tensor base_model.model.'],
  ])('with %s is refused', async (_what, change, message) => {
    const error = await readPeftAdapter(await written(change)).then(() => undefined, (reason: Error) => reason);
    expect(error).toMatchObject({ failure: 'invalidInput', name: 'FormatError' });
    expect(error!.message).toContain(message);
  });

  it('with a tensor that is not one of LoRA, or half a pair, is refused', async () => {
    const directory = await written();
    const path = join(directory, 'adapter_model.safetensors');
    const tensors = await readSafetensors(path);
    tensors.delete('base_model.model.lm_head.lora_A.weight');
    await writeSafetensors(path, tensors);
    await expect(readPeftAdapter(directory)).rejects.toMatchObject({ code: 'missing_tensor' });
    await writeSafetensors(path, new Map([...tensors, ['x', tensors.values().next().value!]]));
    await expect(readPeftAdapter(directory)).rejects.toMatchObject({ code: 'unsupported' });
  });
});
