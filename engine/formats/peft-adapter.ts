/** LoRA adapters as PEFT stores them: adapter_config.json and adapter_model.safetensors. https://github.com/huggingface/peft */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { writeAtomically } from './binary-file.js';
import { requireFinite } from './finite.js';
import { FormatError } from './format-error.js';
import { readJsonFile } from './json-file.js';
import { SafetensorsFile, writeSafetensors, type SafetensorsTensor } from './safetensors.js';

/** What a LoRA adapter is, beside its numbers. */
export interface PeftAdapterConfig {
  /** Rank of A and B. */
  rank: number;
  /** The branch is scaled by alpha / rank. */
  alpha: number;
  /** Dropout on the input of A in training. */
  dropout: number;
  /** Last parts of the adapted modules' names, e.g. `q_proj`. */
  targetModules: string[];
  /** The base model, for people and for loaders. */
  baseModel: string;
}

/** A: [rank, in], B: [out, rank], row-major float32. */
export interface PeftModule {
  a: { shape: [number, number]; data: Float32Array };
  b: { shape: [number, number]; data: Float32Array };
}

export interface PeftAdapter {
  config: PeftAdapterConfig;
  /** By the module's name in the base model: `model.layers.0.self_attn.q_proj`, `lm_head`. */
  modules: Map<string, PeftModule>;
}

const prefix = 'base_model.model.';

/** Name of a module's A or B in adapter_model.safetensors. */
export const peftTensorName = (module: string, part: 'A' | 'B') => `${prefix}${module}.lora_${part}.weight`;

/**
 * Writes an adapter that PEFT loads. adapter_config.json is written last.
 * @returns the names of the files, sorted
 */
export async function writePeftAdapter(directory: string, { config, modules }: PeftAdapter): Promise<string[]> {
  await mkdir(directory, { recursive: true });
  const tensors = new Map<string, SafetensorsTensor>();
  for (const [module, { a, b }] of modules) {
    tensors.set(peftTensorName(module, 'A'), { dtype: 'F32', ...a });
    tensors.set(peftTensorName(module, 'B'), { dtype: 'F32', ...b });
  }
  await writeSafetensors(join(directory, 'adapter_model.safetensors'), tensors, { format: 'pt' });
  await writeText(join(directory, 'README.md'), readme(config, modules.size));
  await writeText(join(directory, 'adapter_config.json'), `${JSON.stringify(adapterConfigJson(config), null, 2)}\n`);
  return ['README.md', 'adapter_config.json', 'adapter_model.safetensors'];
}

const writeText = (path: string, text: string) => writeAtomically(path, (append) => append(Buffer.from(text)));

/** Every key of LoraConfig that versions from 0.14 on know; those that came later are left to their defaults. */
function adapterConfigJson({ rank, alpha, dropout, targetModules, baseModel }: PeftAdapterConfig): Record<string, unknown> {
  return {
    alpha_pattern: {},
    auto_mapping: null,
    base_model_name_or_path: baseModel,
    bias: 'none',
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    layer_replication: null,
    layers_pattern: null,
    layers_to_transform: null,
    loftq_config: {},
    lora_alpha: alpha,
    lora_dropout: dropout,
    megatron_config: null,
    megatron_core: 'megatron.core',
    modules_to_save: null,
    peft_type: 'LORA',
    r: rank,
    rank_pattern: {},
    revision: null,
    target_modules: [...targetModules].sort(),
    task_type: 'CAUSAL_LM',
    use_dora: false,
    use_rslora: false,
  };
}

function readme({ rank, alpha, dropout, targetModules, baseModel }: PeftAdapterConfig, modules: number): string {
  return `---
base_model: ${JSON.stringify(baseModel)}
library_name: peft
pipeline_tag: text-generation
tags:
- lora
- temper
---

# LoRA adapter for ${baseModel}

Trained with Temper. Rank ${rank}, alpha ${alpha}, dropout ${dropout}; ${modules} modules: ${[...targetModules].sort().join(', ')}.

\`\`\`python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained(${JSON.stringify(baseModel)})
model = PeftModel.from_pretrained(base, "path/to/this/directory")
\`\`\`
`;
}

/** Reads a LoRA adapter. Refuses variants that would be computed differently (DoRA, rsLoRA, patterns, trained biases). */
export async function readPeftAdapter(directory: string): Promise<PeftAdapter> {
  const configPath = join(directory, 'adapter_config.json');
  const config = parseAdapterConfig(await readJsonFile(configPath), configPath);
  const weightsPath = join(directory, 'adapter_model.safetensors');
  const file = await SafetensorsFile.open(weightsPath);
  try {
    const modules = new Map<string, PeftModule>();
    // PEFT adds a copy of the frozen base where an output layer is adapted; it is not part of the adapter.
    const names = [...file.entries.keys()].filter((name) => !name.endsWith('.base_layer.weight'));
    for (const name of names) {
      const [, module, part] = /^base_model\.model\.(.+)\.lora_([AB])\.weight$/.exec(name) ?? [];
      if (module === undefined) throw new FormatError('unsupported', weightsPath, `tensor ${name}: expected a lora_A or lora_B weight, got another`);
      if (part === 'B') continue;
      modules.set(module, await readModule(file, module, config.rank));
    }
    if (modules.size === 0) throw new FormatError('missing_tensor', weightsPath, 'tensors: expected lora_A and lora_B weights, got none');
    if (names.length !== modules.size * 2) throw new FormatError('missing_tensor', weightsPath, 'tensors: expected a lora_A for every lora_B, got one without');
    return { config, modules };
  } finally {
    await file.close();
  }
}

async function readModule(file: SafetensorsFile, module: string, rank: number): Promise<PeftModule> {
  const read = async (part: 'A' | 'B') => {
    const name = peftTensorName(module, part);
    const data = await file.readFloats(name);
    requireFinite(data, file.path, name);
    const { shape } = file.entries.get(name)!;
    const rankAxis = part === 'A' ? 0 : 1;
    if (shape.length !== 2 || shape[rankAxis] !== rank) {
      throw new FormatError('wrong_shape', file.path, `tensor ${name}: expected ${part === 'A' ? `[${rank},in]` : `[out,${rank}]`}, got [${shape.join(',')}]`);
    }
    return { shape: shape as [number, number], data };
  };
  return { a: await read('A'), b: await read('B') };
}

function parseAdapterConfig(json: Record<string, unknown>, path: string): PeftAdapterConfig {
  const problems: string[] = [];
  const show = (value: unknown) => JSON.stringify(value)?.slice(0, 80) ?? 'nothing';
  const isEmpty = (value: unknown) => value === undefined || value === null || value === false || (typeof value === 'object' && Object.keys(value).length === 0);
  if (json.peft_type !== 'LORA') problems.push(`peft_type: expected "LORA", got ${show(json.peft_type)}`);
  if ((json.bias ?? 'none') !== 'none') problems.push(`bias: expected "none", got ${show(json.bias)}`);
  for (const key of ['use_dora', 'use_rslora', 'fan_in_fan_out', 'rank_pattern', 'alpha_pattern', 'modules_to_save', 'layer_replication', 'lora_bias', 'trainable_token_indices']) {
    if (!isEmpty(json[key])) problems.push(`${key}: expected none, got ${show(json[key])}`);
  }
  const { r, lora_alpha: alpha, lora_dropout: dropout = 0, target_modules: targets, base_model_name_or_path: baseModel } = json;
  if (!Number.isSafeInteger(r) || (r as number) < 1) problems.push(`r: expected a positive whole number, got ${show(r)}`);
  if (typeof alpha !== 'number' || !(alpha > 0)) problems.push(`lora_alpha: expected a positive number, got ${show(alpha)}`);
  if (typeof dropout !== 'number' || !(dropout >= 0 && dropout < 1)) problems.push(`lora_dropout: expected a number from 0 to below 1, got ${show(dropout)}`);
  if (!Array.isArray(targets) || targets.some((target) => typeof target !== 'string')) problems.push(`target_modules: expected a list of names, got ${show(targets)}`);
  if (problems.length > 0) throw new FormatError('unsupported', path, problems.join('; '));
  return {
    rank: r as number, alpha: alpha as number, dropout: dropout as number, targetModules: targets as string[],
    baseModel: typeof baseModel === 'string' ? baseModel : '',
  };
}
