import { readdir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { FormatError } from './format-error.js';
import { GgufModel } from './gguf-model.js';
import { firstPart } from './gguf-parts.js';
import { HuggingFaceModel, weightForm } from './huggingface-model.js';
import type { LlamaConfig } from './llama-config.js';
import { countParameters } from './llama-tensors.js';
import type { WeightSource } from './weight-source.js';

export type ModelFiles = { format: 'gguf'; path: string } | { format: 'safetensors' | 'pytorch'; directory: string };

/**
 * Says which model `path` is: a .gguf file (any part of a model in several), a directory with one, or a Hugging Face directory (config.json).
 * Throws `missing_file` when it is none of them.
 */
export async function findModel(path: string): Promise<ModelFiles> {
  const stats = await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') throw new FormatError('missing_file', path, 'model: expected a file or directory, got none');
    throw error;
  });
  if (stats.isFile()) return path.endsWith('config.json') ? findModel(dirname(path)) : { format: 'gguf', path: firstPart(path) };
  const names = await readdir(path);
  const hasWeights = names.some((name) => /\.(safetensors|bin)$/.test(name));
  const ggufs = [...new Set(names.filter((name) => name.endsWith('.gguf')).map(firstPart))].sort();
  if (names.includes('config.json') && (hasWeights || ggufs.length !== 1)) return { format: weightForm(names).format, directory: path };
  if (ggufs.length === 1) return { format: 'gguf', path: join(path, ggufs[0]) };
  const got = ggufs.length > 1 ? ggufs.join(', ') : names.length > 0 ? names.sort().slice(0, 10).join(', ') : 'an empty directory';
  throw new FormatError('missing_file', path, `model: expected config.json with safetensors or pytorch_model.bin, or one .gguf file, got ${got}`);
}

/** Opens a model for reading tensor by tensor. Only headers are read here; whatever is wrong with them is a FormatError. */
export async function openModel(path: string): Promise<WeightSource> {
  const model = await findModel(path);
  return model.format === 'gguf' ? GgufModel.open(model.path) : HuggingFaceModel.open(model.directory);
}

/** Checks a model by its headers (names, shapes, file sizes) and says what it is, in milliseconds. */
export async function describeModel(path: string): Promise<LlamaConfig & { parameters: number; format: ModelFiles['format'] }> {
  const { format } = await findModel(path);
  const source = await openModel(path);
  await source.close();
  return { ...source.config, parameters: countParameters(source.config), format };
}
