import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gatherAddedTokens, type TokenFiles } from './added-tokens.js';
import { FormatError } from './format-error.js';
import { readOptionalJsonFile } from './json-file.js';
import { vocabularyEncoder, type SpecialTokens } from './native-tokenizer.js';
import { sentencePieceEncoder } from './sentencepiece-encoder.js';
import { readSentencePieceModel } from './sentencepiece-model.js';
import { pieceTokens, sentencePieceJson, splitsAsLlama } from './sentencepiece-tokenizer.js';
import { vocabularyOf, type AddedToken, type Json } from './tokenizer-json.js';

/** The vocabulary of a Hugging Face directory. */
export interface VocabularyFile {
  /** The file it was read from. */
  path: string;
  /** As a tokenizer.json, with all added tokens. */
  json: Json & { added_tokens: AddedToken[] };
  /** Whether BOS is put in front of a text, where the configuration decides that and not `json`. */
  addsBos?: boolean;
  /** Special tokens that the vocabulary names itself. */
  defaults: SpecialTokens;
  /** Where the library does not give the exact ids by `json`. */
  encodeBatch?: (texts: string[]) => Promise<number[][]>;
  /** Files that belong to a copy too. */
  original: [name: string, bytes: Uint8Array][];
}

/** Reads tokenizer.json, or else tokenizer.model. Throws `missing_file` when there is neither. */
export async function readVocabularyFile(directory: string, files: TokenFiles): Promise<VocabularyFile> {
  const path = join(directory, 'tokenizer.json');
  const json = await readOptionalJsonFile(path);
  if (json) return fromTokenizerJson(json, files, path);
  const modelPath = join(directory, 'tokenizer.model');
  try {
    return await fromSentencePiece(modelPath, files);
  } catch (error) {
    if (!(error instanceof FormatError && error.code === 'missing_file')) throw error;
    throw new FormatError('missing_file', path, 'file: expected to exist, or tokenizer.model, got neither');
  }
}

/** Classes of transformers for which tokenizer.json alone says whether BOS is added. */
const genericClasses: unknown[] = ['PreTrainedTokenizerFast', 'TokenizersBackend'];

function fromTokenizerJson(json: Json, files: TokenFiles, path: string): VocabularyFile {
  const own = (Array.isArray(json.added_tokens) ? json.added_tokens : []) as AddedToken[];
  const { add_bos_token: adds, tokenizer_class: name } = files.config;
  return {
    path,
    json: { ...json, added_tokens: gatherAddedTokens(own, textIds(json), files, path) },
    addsBos: typeof adds === 'boolean' && !genericClasses.includes(name) ? adds : undefined,
    defaults: {},
    original: [],
  };
}

async function fromSentencePiece(path: string, files: TokenFiles): Promise<VocabularyFile> {
  const model = await readSentencePieceModel(path);
  const { add_bos_token: adds, add_prefix_space: prefix, legacy } = files.config;
  const addPrefixSpace = prefix !== false;
  const json = sentencePieceJson(model, { legacy: legacy === true, addPrefixSpace });
  const added = gatherAddedTokens([], vocabularyOf(model.pieces.map(({ text }) => text)), files, path, pieceTokens(model));
  const piece = (id: number | undefined) => (id === undefined ? undefined : model.pieces[id].text);
  return {
    path,
    json: { ...json, added_tokens: added },
    addsBos: typeof adds === 'boolean' ? adds : model.bosId !== undefined,
    defaults: { bos_token: piece(model.bosId), eos_token: piece(model.eosId), unk_token: piece(model.unknownId), pad_token: piece(model.padId) },
    encodeBatch: splitsAsLlama(model) ? undefined : sentencePieceEncoder(model, added, addPrefixSpace, vocabularyEncoder(json)),
    original: [['tokenizer.model', await readFile(path)]], // llama.cpp's converter reads it
  };
}

/** Text → id of a tokenizer.json: an object, or for Unigram a list of texts with their scores. */
function textIds({ model }: Json): Map<string, number> {
  const vocab = (model as { vocab?: unknown } | undefined)?.vocab;
  if (Array.isArray(vocab)) return new Map(vocab.map((entry: unknown, id) => [String((entry as unknown[])[0]), id]));
  return new Map(Object.entries((vocab ?? {}) as Record<string, number>));
}
