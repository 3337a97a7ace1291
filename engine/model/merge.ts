import { add, div, matMul, mul, norm, reshape, tensor2d, tidy, type Tensor, type Tensor2D } from '@tensorflow/tfjs-core';
import type { Tokenizer } from '../formats/tokenizer.js';
import type { WeightSource } from '../formats/weight-source.js';
import { writeHuggingFaceModel, type HuggingFaceModelOptions } from '../formats/write-huggingface-model.js';
import type { LoraBranch } from '../tensor/lora.js';
import type { LoraAdapter } from './adapter.js';

/**
 * Writes a Hugging Face directory of W + scale · B·A, with rows of the trained lengths where the adapter has some (DoRA), and of what
 * it trains in full; one tensor in memory at a time. W are the source's weights: the model's own, or those of a `dequantizedSource`.
 * An adapter that changes the head or the embedding of a model that ties them unties them: each gets a matrix of its own.
 * @returns the names of the files
 */
export async function mergeAdapter(
  source: WeightSource, adapter: LoraAdapter, tokenizer: Pick<Tokenizer, 'files' | 'padTokenId'>, directory: string, options: HuggingFaceModelOptions = {},
): Promise<string[]> {
  const unties = source.config.tiedEmbeddings && (adapter.branch('lm_head') ?? adapter.saved('lm_head') ?? adapter.saved('embed_tokens')) !== undefined;
  const config = unties ? { ...source.config, tiedEmbeddings: false } : source.config;
  const read = async (name: string): Promise<Float32Array> => {
    const trained = trainedInPlace(adapter, name);
    if (trained) return (await trained.data()) as Float32Array;
    const values = await source.read(unties && name === 'lm_head.weight' ? 'model.embed_tokens.weight' : name);
    const branch = adapter.branch(name.replace(/\.weight$/, ''));
    return branch ? merged(values, branch) : values;
  };
  return writeHuggingFaceModel(directory, { config, read, tokenizer }, options);
}

/** What the adapter has in place of a tensor of the model. */
function trainedInPlace(adapter: LoraAdapter, name: string): Tensor | undefined {
  if (name === 'lm_head.weight') return adapter.saved('lm_head');
  if (name === 'model.embed_tokens.weight') return adapter.saved('embed_tokens');
  return name.endsWith('.bias') ? adapter.bias(name.replace(/\.bias$/, '')) : undefined;
}

/** W + scale · B·A of one linear layer, its rows brought to the trained lengths. */
async function merged(values: Float32Array, { a, b, scale, magnitude }: LoraBranch): Promise<Float32Array> {
  const result = tidy(() => {
    const sum: Tensor2D = add(tensor2d(values, [b.shape[0], a.shape[1]]), mul(matMul(b, a), scale));
    return reshape(magnitude ? mul(sum, div(reshape(magnitude, [-1, 1]), norm(sum, 2, 1, true))) : sum, [-1]);
  });
  const data = (await result.data()) as Float32Array;
  result.dispose();
  return data;
}
