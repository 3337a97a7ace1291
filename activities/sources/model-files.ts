import { extname } from 'node:path';
import { firstPart } from '../../engine/formats/gguf-parts.js';

/** What a Hugging Face directory has beside weights that Temper or the user of a merged model needs. */
const companions = new Set([
  'config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json',
  'added_tokens.json', 'tokenizer.model', 'vocab.json', 'merges.txt', 'chat_template.jinja', 'chat_template.json',
]);

/** The files of a model among a directory's: GGUF, or config, tokenizer and weights. Sorted. */
export function modelFiles(names: readonly string[]): string[] {
  const gguf = names.filter((name) => extname(name) === '.gguf');
  const weights = weightFiles(names);
  const isHuggingFace = names.includes('config.json') && (weights.length > 0 || gguf.length === 0);
  return [...(isHuggingFace || gguf.length === 0 ? [...names.filter((name) => companions.has(name)), ...weights] : gguf)].sort();
}

/**
 * Of a repository that has its weights in several forms, the ones that are read: safetensors before PyTorch's, and of either
 * the files that the index names, or the single one. Others beside them (`consolidated.safetensors`) are copies.
 */
function weightFiles(names: readonly string[]): string[] {
  for (const { index, single, shard, any } of [
    { index: 'model.safetensors.index.json', single: 'model.safetensors', shard: /^model-\d+-of-\d+\.safetensors$/, any: /\.safetensors$/ },
    { index: 'pytorch_model.bin.index.json', single: 'pytorch_model.bin', shard: /^pytorch_model-\d+-of-\d+\.bin$/, any: /^pytorch_model.*\.bin$/ },
  ]) {
    const all = names.filter((name) => any.test(name));
    if (all.length === 0) continue;
    if (!names.includes(index)) return all.includes(single) ? [single] : all;
    const shards = all.filter((name) => shard.test(name));
    return [index, ...(shards.length > 0 ? shards : all)];
  }
  return [];
}

/** The files that make up the model that one of a directory's names stands for: itself, or all parts of a GGUF in several. Sorted. */
export const modelParts = (name: string, names: readonly string[]): string[] =>
  name.endsWith('.gguf') ? names.filter((other) => firstPart(other) === firstPart(name)).sort() : [name];

/** The GGUF models among files, by the names of their first parts. */
export const ggufModels = (names: readonly string[]): string[] => [...new Set(names.filter((name) => extname(name) === '.gguf').map(firstPart))];
