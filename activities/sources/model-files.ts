import { extname } from 'node:path';

/** What a Hugging Face directory has beside weights that Temper or the user of a merged model needs. */
const companions = new Set([
  'config.json', 'generation_config.json', 'model.safetensors.index.json', 'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json',
  'added_tokens.json', 'tokenizer.model', 'vocab.json', 'merges.txt', 'chat_template.jinja', 'chat_template.json',
]);

/** The files of a model among a directory's: GGUF, or config, tokenizer and safetensors. Sorted. */
export function modelFiles(names: readonly string[]): string[] {
  const gguf = names.filter((name) => extname(name) === '.gguf');
  const files = names.includes('config.json') || gguf.length === 0 ? names.filter((name) => companions.has(name) || extname(name) === '.safetensors') : gguf;
  return [...files].sort();
}
