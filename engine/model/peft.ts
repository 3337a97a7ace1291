import type { LlamaConfig } from '../formats/llama-config.js';
import { peftTensorName, readPeftAdapter, writePeftAdapter, type PeftModule } from '../formats/peft-adapter.js';
import { LoraAdapter, type ParameterValues } from './adapter.js';

/** Writes an adapter as a PEFT directory. @returns the names of the files */
export async function savePeft(adapter: LoraAdapter, directory: string, baseModel: string): Promise<string[]> {
  const { rank, alpha, dropout, targetModules } = adapter.options;
  const values = await adapter.values();
  const modules = new Map<string, PeftModule>();
  for (const path of adapter.modulePaths()) {
    const part = (letter: 'A' | 'B') => {
      const { shape, values: data } = values.get(peftTensorName(path, letter))!;
      return { shape: shape as [number, number], data };
    };
    modules.set(path, { a: part('A'), b: part('B') });
  }
  return writePeftAdapter(directory, { config: { rank, alpha, dropout, targetModules: [...targetModules], baseModel }, modules });
}

/** Reads a PEFT directory as an adapter of a model. Throws `adapter_mismatch` when it does not fit. */
export async function loadPeft(config: LlamaConfig, directory: string): Promise<LoraAdapter> {
  const { config: lora, modules } = await readPeftAdapter(directory);
  const tensors = new Map<string, ParameterValues>();
  for (const [path, { a, b }] of modules) {
    tensors.set(peftTensorName(path, 'A'), { shape: a.shape, values: a.data });
    tensors.set(peftTensorName(path, 'B'), { shape: b.shape, values: b.data });
  }
  return LoraAdapter.fromTensors(config, lora, tensors);
}
