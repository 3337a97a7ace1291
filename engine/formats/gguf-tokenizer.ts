import { FormatError } from './format-error.js';
import { tokenKinds, type GgufVocabulary } from './gguf-vocabulary.js';

type Json = Record<string, unknown>;

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

/** The tokenizer.json of the models that llama.cpp's converter gave each name to. */
const splits: Record<string, ByteLevelSplit> = {
  'gpt-2': { normalizer: null, preTokenizer: byteLevel(true) },
  smollm: digitsThenBytes,
  starcoder: digitsThenBytes,
  refact: digitsThenBytes,
  'llama-bpe': {
    normalizer: null,
    preTokenizer: sequence(
      split("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"),
      byteLevel(false),
    ),
    ignoreMerges: true,
    addsBos: true,
  },
  qwen2: {
    normalizer: { type: 'NFC' },
    preTokenizer: sequence(
      split("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"),
      byteLevel(false),
    ),
  },
};

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
    post_processor: ggufAddsBos(vocabulary) ? bosInFront(vocabulary) : null,
  };
}

/** Whether the model was trained with BOS in front of a text. */
export function ggufAddsBos({ bos, addsBos, model, preTokenizer }: GgufVocabulary): boolean {
  return bos !== undefined && (addsBos ?? (model === 'llama' || splits[preTokenizer ?? '']?.addsBos === true));
}

/** Tokens that are found in the text before it is split: control tokens (special) and the user's. */
export function addedTokens({ tokens, kinds }: GgufVocabulary): Json[] {
  return tokens.flatMap((content, id) => {
    const special = kinds[id] === tokenKinds.control || kinds[id] === tokenKinds.unknown;
    if (!special && kinds[id] !== tokenKinds.userDefined) return [];
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }];
  });
}

function bosInFront({ tokens, bos }: GgufVocabulary): Json {
  const token = { SpecialToken: { id: bos, type_id: 0 } };
  return {
    type: 'TemplateProcessing',
    single: [token, { Sequence: { id: 'A', type_id: 0 } }],
    pair: [token, { Sequence: { id: 'A', type_id: 0 } }, { SpecialToken: { id: bos, type_id: 1 } }, { Sequence: { id: 'B', type_id: 1 } }],
    special_tokens: { [bos!]: { id: bos, ids: [tokens.indexOf(bos!)], tokens: [bos] } },
  };
}

/** Text → id. A text that occurs twice keeps its first id, as the converter's padding tokens never do. */
function vocabularyOf({ tokens }: GgufVocabulary): Map<string, number> {
  const vocab = new Map<string, number>();
  tokens.forEach((token, id) => {
    if (!vocab.has(token)) vocab.set(token, id);
  });
  return vocab;
}

function bpe(vocab: ReadonlyMap<string, number>, merges: string[], options: Json): Json {
  return {
    type: 'BPE', dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: false, byte_fallback: false,
    ignore_merges: false, ...options, vocab: Object.fromEntries(vocab), merges,
  };
}

function byteLevelBpe(vocabulary: GgufVocabulary): Json {
  const { path, preTokenizer = 'none', merges } = vocabulary;
  if (!Object.hasOwn(splits, preTokenizer)) {
    throw new FormatError('unsupported', path, `tokenizer.ggml.pre: expected one of ${Object.keys(splits).join(', ')}, got ${preTokenizer}`);
  }
  const { normalizer, preTokenizer: pre, ignoreMerges = false } = splits[preTokenizer];
  const vocab = vocabularyOf(vocabulary);
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

/** SentencePiece writes a space as this character. */
const space = '\u2581';

function sentencePieceBpe(vocabulary: GgufVocabulary): Json {
  const { path, tokens, scores, unknown, addsSpacePrefix } = vocabulary;
  if (scores.length !== tokens.length) throw new FormatError('bad_header', path, `tokenizer.ggml.scores: expected ${tokens.length} entries, got ${scores.length}`);
  const replaceSpaces = { type: 'Replace', pattern: { String: ' ' }, content: space };
  const decoders: Json[] = [{ type: 'Replace', pattern: { String: space }, content: ' ' }, { type: 'ByteFallback' }, { type: 'Fuse' }];
  return {
    normalizer: { type: 'Sequence', normalizers: addsSpacePrefix ? [{ type: 'Prepend', prepend: space }, replaceSpaces] : [replaceSpaces] },
    pre_tokenizer: null,
    decoder: { type: 'Sequence', decoders: addsSpacePrefix ? [...decoders, { type: 'Strip', content: ' ', start: 1, stop: 0 }] : decoders },
    model: bpe(vocabularyOf(vocabulary), mergesFromScores(vocabulary), { unk_token: unknown ?? null, fuse_unk: true, byte_fallback: true }),
  };
}

/**
 * SentencePiece merges the neighbours whose union has the best score. As BPE merges: every way to make a token out of two,
 * by the token's score, best first.
 */
function mergesFromScores({ tokens, kinds, scores }: GgufVocabulary): string[] {
  const ids = new Map<string, number>();
  tokens.forEach((token, id) => {
    if (kinds[id] === tokenKinds.normal) ids.set(token, id);
  });
  const merges: { text: string; score: number; left: number; right: number }[] = [];
  for (const [token, id] of ids) {
    for (let at = 1; at < token.length; at++) {
      const left = ids.get(token.slice(0, at));
      const right = ids.get(token.slice(at));
      if (left !== undefined && right !== undefined) merges.push({ text: `${tokens[left]} ${tokens[right]}`, score: scores[id], left, right });
    }
  }
  merges.sort((a, b) => b.score - a.score || a.left - b.left || a.right - b.right);
  return merges.map(({ text }) => text);
}
