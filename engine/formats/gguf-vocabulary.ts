import { BinaryFile } from './binary-file.js';
import { FormatError } from './format-error.js';
import { readGgufHeader, type GgufValue } from './gguf-header.js';

/** Kinds of a token: https://github.com/ggml-org/ggml, docs/gguf.md, tokenizer.ggml.token_type. */
export const tokenKinds = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** A GGUF's vocabulary as the file has it. */
export interface GgufVocabulary {
  path: string;
  /** `gpt2`: byte-level BPE; `llama`: SentencePiece BPE. */
  model: string;
  /** Name of the split before BPE, for `gpt2`. */
  preTokenizer?: string;
  tokens: string[];
  /** Kind of each token, of `tokenKinds`. */
  kinds: number[];
  /** Rank of each token, for `llama`; higher merges first. */
  scores: number[];
  /** "left right", for `gpt2`; earlier merges first. */
  merges: string[];
  bos?: string;
  eos?: string;
  unknown?: string;
  padding?: string;
  addsBos?: boolean;
  /** `llama`: a space is put in front of the text. @default true */
  addsSpacePrefix: boolean;
  chatTemplate?: string;
  contextLength?: number;
}

/** Reads the vocabulary of a GGUF. Throws `unsupported` when it has none. */
export async function readGgufVocabulary(path: string): Promise<GgufVocabulary> {
  const file = await BinaryFile.open(path);
  let metadata: Map<string, GgufValue>;
  try {
    ({ metadata } = await readGgufHeader(file));
  } finally {
    await file.close();
  }
  const fail = (message: string) => new FormatError('bad_header', path, message);
  const list = <T extends 'string' | 'number'>(key: string, type: T): (T extends 'string' ? string : number)[] => {
    const value = metadata.get(key) ?? [];
    if (!Array.isArray(value) || value.some((entry) => typeof entry !== type)) throw fail(`${key}: expected a list of ${type}s, got something else`);
    return value as (T extends 'string' ? string : number)[];
  };
  const optional = <T extends 'string' | 'boolean' | 'number'>(key: string, type: T) => {
    const value = metadata.get(key);
    if (value !== undefined && typeof value !== type) throw fail(`${key}: expected a ${type}, got something else`);
    return value as (T extends 'string' ? string : T extends 'boolean' ? boolean : number) | undefined;
  };

  const tokens = list('tokenizer.ggml.tokens', 'string');
  if (tokens.length === 0) throw new FormatError('unsupported', path, 'tokenizer.ggml.tokens: expected a vocabulary, got none');
  const kinds = list('tokenizer.ggml.token_type', 'number');
  if (kinds.length !== 0 && kinds.length !== tokens.length) throw fail(`tokenizer.ggml.token_type: expected ${tokens.length} entries, got ${kinds.length}`);
  const token = (key: string): string | undefined => {
    const id = optional(key, 'number');
    if (id !== undefined && tokens[id] === undefined) throw fail(`${key}: expected an id below ${tokens.length}, got ${id}`);
    return id === undefined ? undefined : tokens[id];
  };
  return {
    path,
    model: optional('tokenizer.ggml.model', 'string') ?? '',
    preTokenizer: optional('tokenizer.ggml.pre', 'string'),
    tokens,
    kinds: kinds.length > 0 ? kinds : tokens.map(() => tokenKinds.normal),
    scores: list('tokenizer.ggml.scores', 'number'),
    merges: list('tokenizer.ggml.merges', 'string'),
    bos: token('tokenizer.ggml.bos_token_id'),
    eos: token('tokenizer.ggml.eos_token_id'),
    unknown: token('tokenizer.ggml.unknown_token_id'),
    padding: token('tokenizer.ggml.padding_token_id'),
    addsBos: optional('tokenizer.ggml.add_bos_token', 'boolean'),
    addsSpacePrefix: optional('tokenizer.ggml.add_space_prefix', 'boolean') ?? true,
    chatTemplate: optional('tokenizer.chat_template', 'string'),
    contextLength: optional(`${optional('general.architecture', 'string')}.context_length`, 'number'),
  };
}
