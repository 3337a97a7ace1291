import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { chatTemplateSource } from './chat-template.js';
import { FormatError } from './format-error.js';
import { addedTokens, ggufAddsBos, tokenizerJson } from './gguf-tokenizer.js';
import { readGgufVocabulary, type GgufVocabulary } from './gguf-vocabulary.js';
import { readOptionalJsonFile } from './json-file.js';
import { createTokenizer, specialTokenNames, type SpecialTokens } from './native-tokenizer.js';
import { findModel } from './open-model.js';
import { withBos, type AddedToken, type Json } from './tokenizer-json.js';
import type { Tokenizer } from './tokenizer.js';
import { readVocabularyFile } from './vocabulary-file.js';

/** Opens the tokenizer of a model: tokenizer.json or tokenizer.model of a Hugging Face directory, or the vocabulary inside a GGUF. */
export async function openTokenizer(path: string): Promise<Tokenizer> {
  const model = await findModel(path);
  return model.format === 'gguf' ? openGgufTokenizer(model.path) : openHuggingFaceTokenizer(model.directory);
}

async function openGgufTokenizer(path: string): Promise<Tokenizer> {
  const vocabulary = await readGgufVocabulary(path);
  const json = JSON.stringify(tokenizerJson(vocabulary));
  const special = compact({ bos_token: vocabulary.bos, eos_token: vocabulary.eos, unk_token: vocabulary.unknown, pad_token: vocabulary.padding });
  return createTokenizer({
    path, json, special,
    chatTemplate: vocabulary.chatTemplate,
    addsBos: ggufAddsBos(vocabulary),
    files: async () => filesOf(json, ggufTokenizerConfig(vocabulary, special), special),
  });
}

/** tokenizer_config.json as transformers writes it for a tokenizer.json. */
function ggufTokenizerConfig(vocabulary: GgufVocabulary, special: SpecialTokens): Json {
  const decoder = Object.fromEntries(addedTokens(vocabulary).map(({ id, ...token }) => [String(id), token]));
  return {
    added_tokens_decoder: decoder,
    ...special,
    ...(vocabulary.chatTemplate === undefined ? {} : { chat_template: vocabulary.chatTemplate }),
    clean_up_tokenization_spaces: false,
    ...(vocabulary.contextLength === undefined ? {} : { model_max_length: vocabulary.contextLength }),
    tokenizer_class: 'PreTrainedTokenizerFast',
  };
}

async function openHuggingFaceTokenizer(directory: string): Promise<Tokenizer> {
  const optional = async (name: string): Promise<Json> => (await readOptionalJsonFile(join(directory, name))) ?? {};
  const { config, map, added } = { config: await optional('tokenizer_config.json'), map: await optional('special_tokens_map.json'), added: await optional('added_tokens.json') };
  const { path, json: vocabulary, addsBos, defaults, encodeBatch, original } = await readVocabularyFile(directory, { config, map, added });
  const special = compact(Object.fromEntries(specialTokenNames.map((name) => [name, tokenText(config[name]) ?? tokenText(map[name]) ?? defaults[name]])));
  special.eos_token ??= await eosFromModel(directory, vocabulary.added_tokens);
  const bos = vocabulary.added_tokens.find(({ content }) => content === special.bos_token);
  const json = JSON.stringify(bos && addsBos !== undefined ? withBos(vocabulary, bos, addsBos) : vocabulary);
  // transformers 4.43 and later write the template into a file of its own.
  const templateFile = await readOptionalText(join(directory, 'chat_template.jinja'));
  const chatTemplate = templateFile ?? chatTemplateSource(config.chat_template);
  return createTokenizer({
    path, json, special, chatTemplate, encodeBatch, addsBos,
    files: async () => {
      // transformers makes another tokenizer out of some classes' files; this class takes tokenizer.json as it is.
      const written = { ...config, ...special, tokenizer_class: 'PreTrainedTokenizerFast', ...(chatTemplate === undefined ? {} : { chat_template: config.chat_template ?? chatTemplate }) };
      return new Map([...filesOf(json, written, { ...special, ...map }), ...original]);
    },
  });
}

/** A special token is written as its text or as an object with its text in `content`. */
function tokenText(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  const content = typeof value === 'object' && value !== null ? (value as Json).content : undefined;
  return typeof content === 'string' ? content : undefined;
}

/** The end token by its id in config.json, for directories without tokenizer_config.json. */
async function eosFromModel(directory: string, added: readonly AddedToken[]): Promise<string | undefined> {
  const config = await readOptionalJsonFile(join(directory, 'config.json'));
  const id = [config?.eos_token_id].flat()[0];
  return added.find((token) => token.id === id)?.content;
}

async function readOptionalText(path: string): Promise<string | undefined> {
  return readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw new FormatError('missing_file', path, `file: expected to be readable, got ${error.code}`);
  });
}

function compact(tokens: Partial<Record<string, string>>): SpecialTokens {
  return Object.fromEntries(Object.entries(tokens).filter(([, text]) => text !== undefined));
}

function filesOf(json: string, config: Json, special: Json): Map<string, Uint8Array> {
  const pretty = (value: unknown) => Buffer.from(`${JSON.stringify(value, null, 2)}\n`);
  return new Map([
    ['tokenizer.json', Buffer.from(json)],
    ['tokenizer_config.json', pretty(config)],
    ['special_tokens_map.json', pretty(special)],
  ]);
}
