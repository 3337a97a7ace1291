import { add, matMul, mul, reshape, tensor2d, tidy } from '@tensorflow/tfjs-core';
import type { Tokenizer } from '../formats/tokenizer.js';
import type { WeightSource } from '../formats/weight-source.js';
import { writeHuggingFaceModel, type HuggingFaceModelOptions } from '../formats/write-huggingface-model.js';
import type { LoraAdapter } from './adapter.js';

/**
 * Writes a Hugging Face directory of W + scale · B·A, one tensor in memory at a time. W are the source's weights: the model's own,
 * or those of a `dequantizedSource`. A LoRA on the head of a model with tied embeddings unties them:
 * the head gets a matrix of its own.
 * @returns the names of the files
 */
export async function mergeAdapter(
  source: WeightSource, adapter: LoraAdapter, tokenizer: Pick<Tokenizer, 'files'>, directory: string, options: HuggingFaceModelOptions = {},
): Promise<string[]> {
  const unties = source.config.tiedEmbeddings && adapter.branch('lm_head') !== undefined;
  const config = unties ? { ...source.config, tiedEmbeddings: false } : source.config;
  const read = async (name: string): Promise<Float32Array> => {
    const values = await source.read(unties && name === 'lm_head.weight' ? 'model.embed_tokens.weight' : name);
    return merged(values, adapter, name.replace(/\.weight$/, ''));
  };
  return writeHuggingFaceModel(directory, { config, read, tokenizer }, options);
}

/** W + scale · B·A of one linear layer; W itself where nothing is adapted. */
async function merged(values: Float32Array, adapter: LoraAdapter, path: string): Promise<Float32Array> {
  const branch = adapter.branch(path);
  if (!branch) return values;
  const { a, b, scale } = branch;
  const sum = tidy(() => reshape(add(tensor2d(values, [b.shape[0], a.shape[1]]), mul(matMul(b, a), scale)), [-1]));
  const result = (await sum.data()) as Float32Array;
  sum.dispose();
  return result;
}
