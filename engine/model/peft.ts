import type { LlamaConfig } from '../formats/llama-config.js';
import { readPeftAdapter, writePeftAdapter } from '../formats/peft-adapter.js';
import { LoraAdapter } from './adapter.js';

/** Writes an adapter as a PEFT directory. @param revision the base model's commit on the hub @returns the names of the files */
export async function savePeft(adapter: LoraAdapter, directory: string, baseModel: string, revision?: string): Promise<string[]> {
  return writePeftAdapter(directory, { config: { ...adapter.options, baseModel, revision }, tensors: await adapter.values() });
}

/** Reads a PEFT directory as an adapter of a model. Throws `adapter_mismatch` when it does not fit. */
export async function loadPeft(config: LlamaConfig, directory: string): Promise<LoraAdapter> {
  const { config: options, tensors } = await readPeftAdapter(directory);
  return LoraAdapter.fromTensors(config, options, tensors);
}
