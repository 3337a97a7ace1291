/** LoRA adapters as PEFT stores them: adapter_config.json and adapter_model.safetensors. https://github.com/huggingface/peft */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { writeAtomically } from './binary-file.js';
import { requireFinite } from './finite.js';
import { FormatError } from './format-error.js';
import { describeTargets, rankOf } from './lora-modules.js';
import type { SavableModule } from './lora-options.js';
import { adapterConfigJson, readPeftConfig, type PeftAdapterConfig } from './peft-config.js';
import { SafetensorsFile, writeSafetensors, type SafetensorsTensor } from './safetensors.js';

/** Values of one tensor, row-major. */
export interface PeftTensor {
  shape: readonly number[];
  values: Float32Array;
}

export interface PeftAdapter {
  config: PeftAdapterConfig;
  /** By name in adapter_model.safetensors. */
  tensors: ReadonlyMap<string, PeftTensor>;
}

const prefix = 'base_model.model.';

/** Name of a module's A or B in adapter_model.safetensors. A: [rank, in], B: [out, rank]. */
export const peftTensorName = (module: string, part: 'A' | 'B') => `${prefix}${module}.lora_${part}.weight`;
/** Name of the lengths of a module's rows, [out] (DoRA). */
export const peftMagnitudeName = (module: string) => `${prefix}${module}.lora_magnitude_vector`;
/** Name of a trained bias, [out]. */
export const peftBiasName = (module: string, isAdapted: boolean) => `${prefix}${module}.${isAdapted ? 'base_layer.' : ''}bias`;
/** Name of a module that is trained in full, [vocabulary, hidden]. */
export const peftSavedName = (module: SavableModule) => `${prefix}${module === 'embed_tokens' ? 'model.embed_tokens' : module}.weight`;

/**
 * Writes an adapter that PEFT loads. adapter_config.json is written last.
 * @returns the names of the files, sorted
 */
export async function writePeftAdapter(directory: string, { config, tensors }: PeftAdapter): Promise<string[]> {
  await mkdir(directory, { recursive: true });
  const stored = new Map([...tensors].map(([name, { shape, values }]): [string, SafetensorsTensor] => [name, { dtype: 'F32', shape: [...shape], data: values }]));
  await writeSafetensors(join(directory, 'adapter_model.safetensors'), stored, { format: 'pt' });
  const modules = [...tensors.keys()].filter((name) => name.endsWith('.lora_A.weight')).length;
  await writeText(join(directory, 'README.md'), readme(config, modules));
  await writeText(join(directory, 'adapter_config.json'), `${JSON.stringify(adapterConfigJson(config), null, 2)}\n`);
  return ['README.md', 'adapter_config.json', 'adapter_model.safetensors'];
}

const writeText = (path: string, text: string) => writeAtomically(path, (append) => append(Buffer.from(text)));

function readme(config: PeftAdapterConfig, modules: number): string {
  const { rank, alpha, dropout, baseModel, revision } = config;
  return `---
base_model: ${JSON.stringify(baseModel)}
library_name: peft
pipeline_tag: text-generation
tags:
- lora
- temper
---

# LoRA adapter for ${baseModel}${revision === undefined ? '' : ` at ${revision}`}

Trained with Temper. Rank ${rank}, alpha ${alpha}, dropout ${dropout}; ${modules} modules: ${describeTargets(config)}.

\`\`\`python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained(${JSON.stringify(baseModel)}${revision === undefined ? '' : `, revision=${JSON.stringify(revision)}`})
model = PeftModel.from_pretrained(base, "path/to/this/directory")
\`\`\`
`;
}

/** Reads a LoRA adapter. Refuses by name what would be computed differently here. */
export async function readPeftAdapter(directory: string): Promise<PeftAdapter> {
  const config = await readPeftConfig(directory);
  const weightsPath = join(directory, 'adapter_model.safetensors');
  const file = await SafetensorsFile.open(weightsPath);
  try {
    const tensors = new Map<string, PeftTensor>();
    for (const stored of file.entries.keys()) {
      // PEFT adds a copy of the frozen base where an output layer is adapted; it is not part of the adapter.
      if (stored.endsWith('.base_layer.weight')) continue;
      const name = stored.replace(/\.lora_magnitude_vector\.weight$/, '.lora_magnitude_vector');
      const { shape } = file.entries.get(stored)!;
      checkTensor(config, name, shape, weightsPath);
      const values = await file.readFloats(stored);
      requireFinite(values, file.path, stored);
      tensors.set(name, { shape, values });
    }
    checkPairs(tensors, weightsPath);
    return { config, tensors };
  } finally {
    await file.close();
  }
}

/** That a tensor is one of those that the options call for. */
function checkTensor(config: PeftAdapterConfig, name: string, shape: readonly number[], path: string): void {
  const [, module, part] = /^base_model\.model\.(.+)\.lora_([AB])\.weight$/.exec(name) ?? [];
  if (module !== undefined) {
    const rank = rankOf(config, module);
    if (shape.length === 2 && shape[part === 'A' ? 0 : 1] === rank) return;
    throw new FormatError('wrong_shape', path, `tensor ${name}: expected ${part === 'A' ? `[${rank},in]` : `[out,${rank}]`}, got [${shape.join(',')}]`);
  }
  const isExpected =
    (name.endsWith('.lora_magnitude_vector') && config.useDora) || (name.endsWith('.bias') && config.bias !== 'none') ||
    config.modulesToSave?.some((saved) => name === peftSavedName(saved));
  if (!isExpected) throw new FormatError('unsupported', path, `tensor ${name}: expected those that adapter_config.json calls for, such as lora_A and lora_B weights, got another`);
}

function checkPairs(tensors: ReadonlyMap<string, PeftTensor>, path: string): void {
  const halves = [...tensors.keys()].filter((name) => /\.lora_[AB]\.weight$/.test(name));
  if (halves.length === 0) throw new FormatError('missing_tensor', path, 'tensors: expected lora_A and lora_B weights, got none');
  const single = halves.find((name) => !tensors.has(name.includes('.lora_A.') ? name.replace('.lora_A.', '.lora_B.') : name.replace('.lora_B.', '.lora_A.')));
  if (single !== undefined) throw new FormatError('missing_tensor', path, `tensors: expected a lora_A for every lora_B, got ${single} alone`);
}
