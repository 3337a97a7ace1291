import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { readPeftAdapter, writePeftAdapter, type PeftAdapter } from '../../engine/formats/peft-adapter.js';
import { readSafetensors, writeSafetensors } from '../../engine/formats/safetensors.js';
import { temporaryDirectory } from '../kit/temporary.js';

const module = (start: number, out: number): PeftAdapter['modules'] extends Map<string, infer M> ? M : never => ({
  a: { shape: [2, 3], data: Float32Array.from({ length: 6 }, (_, i) => start + i) },
  b: { shape: [out, 2], data: Float32Array.from({ length: out * 2 }, (_, i) => -start - i) },
});
const adapter: PeftAdapter = {
  config: { rank: 2, alpha: 16, dropout: 0.05, targetModules: ['v_proj', 'lm_head'], baseModel: 'smollm2-135m-instruct' },
  modules: new Map([['model.layers.0.self_attn.v_proj', module(1, 4)], ['lm_head', module(50, 7)]]),
};
async function written(change: (config: Record<string, unknown>) => void = () => undefined) {
  const directory = temporaryDirectory();
  await writePeftAdapter(directory, adapter);
  const path = join(directory, 'adapter_config.json');
  const config = JSON.parse(readFileSync(path, 'utf8'));
  change(config);
  writeFileSync(path, JSON.stringify(config));
  return directory;
}

describe('a PEFT adapter', () => {
  it('is read as it was written', async () => {
    const read = await readPeftAdapter(await written());
    expect(read.config).toEqual({ ...adapter.config, targetModules: ['lm_head', 'v_proj'] });
    expect(new Map([...read.modules].sort())).toEqual(new Map([...adapter.modules].sort()));
  });

  it('has the names that PEFT gives', async () => {
    const tensors = await readSafetensors(join(await written(), 'adapter_model.safetensors'));
    expect([...tensors.keys()].sort()).toEqual([
      'base_model.model.lm_head.lora_A.weight', 'base_model.model.lm_head.lora_B.weight',
      'base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight', 'base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight',
    ]);
  });

  it('that PEFT wrote is read', async () => {
    const { config, modules } = await readPeftAdapter('test/golden/model/adapter');
    expect(config).toMatchObject({ rank: 4, alpha: 6 });
    expect(modules.get('lm_head')!.a.shape[0]).toBe(4);
    expect(config.targetModules).toContain('lm_head');
  });

  it.each<[string, (config: Record<string, unknown>) => void, string]>([
    ['DoRA', (config) => (config.use_dora = true), 'adapter_config.json: use_dora: expected none, got true'],
    ['rsLoRA and trained biases, both named', (config) => Object.assign(config, { use_rslora: true, bias: 'all' }), 'bias: expected "none", got "all"; use_rslora: expected none, got true'],
    ['a rank pattern', (config) => (config.rank_pattern = { q_proj: 4 }), 'rank_pattern: expected none, got {"q_proj":4}'],
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
