import { FormatError } from './format-error.js';
import { tokenKinds, type GgufVocabulary } from './gguf-vocabulary.js';
import { addedToken, bosInFront, bpe, mergesFromScores, pieceDecoder, replaceSpaces, space, vocabularyOf, type AddedToken, type Json } from './tokenizer-json.js';

interface ByteLevelSplit {
  normalizer: Json | null;
  preTokenizer: Json;
  /** A piece that is a token whole is taken without merging. */
  ignoreMerges?: boolean;
  /** What the original tokenizer does where the GGUF does not say. */
  addsBos?: boolean;
}

const byteLevel = (useRegex: boolean): Json => ({ type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: useRegex });
const sequence = (...pretokenizers: Json[]): Json => ({ type: 'Sequence', pretokenizers });
const split = (regex: string): Json => ({ type: 'Split', pattern: { Regex: regex }, behavior: 'Isolated', invert: false });
const digitsThenBytes: ByteLevelSplit = { normalizer: null, preTokenizer: sequence({ type: 'Digits', individual_digits: true }, byteLevel(true)) };

const splitThenBytes = (regex: string): Json => sequence(split(regex), byteLevel(false));
const llama3: ByteLevelSplit = {
  normalizer: null,
  preTokenizer: splitThenBytes("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"),
  ignoreMerges: true,
  addsBos: true,
};
const qwen2: ByteLevelSplit = {
  normalizer: { type: 'NFC' },
  preTokenizer: splitThenBytes("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"),
};
/** Words change at a capital letter. */
const tekken: ByteLevelSplit = {
  normalizer: null,
  preTokenizer: splitThenBytes('[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+'),
  ignoreMerges: true,
  addsBos: true,
};

/** The tokenizer.json of the models that llama.cpp's converter gave each name to. */
const splits: Record<string, ByteLevelSplit> = {
  'gpt-2': { normalizer: null, preTokenizer: byteLevel(true) },
  smollm: digitsThenBytes,
  starcoder: digitsThenBytes,
  refact: digitsThenBytes,
  'llama-bpe': llama3,
  'llama-v3': llama3,
  llama3,
  'smaug-bpe': { ...llama3, ignoreMerges: false, addsBos: false },
  qwen2,
  'deepseek-r1-qwen': qwen2,
  tekken,
};

/** The name of the split that a tokenizer.json makes; undefined when it is none of these. Of several with the same split, the first. */
export function splitNameOf(normalizer: Json | null, preTokenizer: Json | null): string | undefined {
  const same = (a: unknown, b: unknown): boolean => canonical(a) === canonical(b);
  return Object.keys(splits).find((name) => same(splits[name].normalizer, normalizer) && same(splits[name].preTokenizer, preTokenizer));
}

/** Without what changes no token: where offsets begin. */
const canonical = (value: unknown): string =>
  JSON.stringify(value, (key, field: unknown) =>
    key === 'trim_offsets' ? undefined
    : typeof field === 'object' && field !== null && !Array.isArray(field) ? Object.fromEntries(Object.entries(field).sort(([a], [b]) => (a < b ? -1 : 1)))
    : field,
  );

/** Builds the tokenizer.json that a GGUF's vocabulary stands for. Throws `unsupported` for a kind that is not known exactly. */
export function tokenizerJson(vocabulary: GgufVocabulary): Json {
  const kind = vocabulary.model === 'gpt2' ? byteLevelBpe(vocabulary) : vocabulary.model === 'llama' ? sentencePieceBpe(vocabulary) : undefined;
  if (!kind) throw new FormatError('unsupported', vocabulary.path, `tokenizer.ggml.model: expected gpt2 or llama, got ${vocabulary.model || 'none'}`);
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: addedTokens(vocabulary),
    ...kind,
    post_processor: ggufAddsBos(vocabulary) ? bosInFront(vocabulary.bos!, vocabulary.tokens.indexOf(vocabulary.bos!)) : null,
  };
}

/** Whether the model was trained with BOS in front of a text. */
export function ggufAddsBos({ bos, addsBos, model, preTokenizer }: GgufVocabulary): boolean {
  return bos !== undefined && (addsBos ?? (model === 'llama' || splits[preTokenizer ?? '']?.addsBos === true));
}

/** Tokens that are found in the text before it is split: control tokens (special) and the user's. */
export function addedTokens({ tokens, kinds }: GgufVocabulary): AddedToken[] {
  return tokens.flatMap((content, id) => {
    const special = kinds[id] === tokenKinds.control || kinds[id] === tokenKinds.unknown;
    if (!special && kinds[id] !== tokenKinds.userDefined) return [];
    return [addedToken(id, content, special)];
  });
}

function byteLevelBpe(vocabulary: GgufVocabulary): Json {
  const { path, preTokenizer = 'none', merges } = vocabulary;
  if (!Object.hasOwn(splits, preTokenizer)) {
    throw new FormatError('unsupported', path, `tokenizer.ggml.pre: expected one of ${Object.keys(splits).join(', ')}, got ${preTokenizer}`);
  }
  const { normalizer, preTokenizer: pre, ignoreMerges = false } = splits[preTokenizer];
  const vocab = vocabularyOf(vocabulary.tokens);
  for (const merge of merges) {
    const [left, right, ...rest] = merge.split(' ');
    if (right === undefined || rest.length > 0 || !vocab.has(left) || !vocab.has(right) || !vocab.has(left + right)) {
      throw new FormatError('bad_header', path, `tokenizer.ggml.merges: expected two tokens that make a third, got ${JSON.stringify(merge)}`);
    }
  }
  return {
    normalizer,
    pre_tokenizer: pre,
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: bpe(vocab, merges, { ignore_merges: ignoreMerges }),
  };
}

function sentencePieceBpe(vocabulary: GgufVocabulary): Json {
  const { path, tokens, kinds, scores, unknown, addsSpacePrefix } = vocabulary;
  if (scores.length !== tokens.length) throw new FormatError('bad_header', path, `tokenizer.ggml.scores: expected ${tokens.length} entries, got ${scores.length}`);
  const merges = mergesFromScores(tokens, scores, (id) => kinds[id] === tokenKinds.normal);
  return {
    normalizer: { type: 'Sequence', normalizers: addsSpacePrefix ? [{ type: 'Prepend', prepend: space }, replaceSpaces] : [replaceSpaces] },
    pre_tokenizer: null,
    decoder: pieceDecoder({ byteFallback: true, stripsFirstSpace: addsSpacePrefix }),
    model: bpe(vocabularyOf(tokens), merges, { unk_token: unknown ?? null, fuse_unk: true, byte_fallback: true }),
  };
}
