import { FormatError } from './format-error.js';
import { pieceKinds, type SentencePieceModel } from './sentencepiece-model.js';
import { addedToken, bpe, mergesFromScores, pieceDecoder, replaceSpaces, space, vocabularyOf, type AddedToken, type Json } from './tokenizer-json.js';

export interface SentencePieceOptions {
  /** tokenizer_config.json's `legacy`: a space is put in front of every text between special tokens, not of the first alone. @default false */
  legacy?: boolean;
  /** tokenizer_config.json's `add_prefix_space`. @default true */
  addPrefixSpace?: boolean;
}

/**
 * The tokenizer.json that a SentencePiece model stands for. A model that does not change the text but for the space in front, as
 * all LLaMAs', is split as transformers' LlamaTokenizer does (its `legacy` is SentencePiece's own way, applied to each text between
 * special tokens); pieces are merged by their scores, as SentencePiece does, while transformers 5 goes by their ids. Of any other it is what the library can do, for others to read; `sentencePieceEncoder` gives the exact ids. Throws `unsupported` for what cannot be had exactly.
 */
export function sentencePieceJson(model: SentencePieceModel, { legacy = false, addPrefixSpace = true }: SentencePieceOptions = {}): Json {
  const { path, pieces, algorithm, byteFallback } = model;
  const fail = (message: string) => new FormatError('unsupported', path, message);
  if (algorithm !== 'bpe' && algorithm !== 'unigram') throw fail(`model_type: expected bpe or unigram, got ${algorithm}`);
  if (!model.escapesWhitespaceInFront) throw fail('spaces: expected to be escaped and in front of words, got another way');
  const spaced = pieces.find(({ text, kind }) => kind === pieceKinds.userDefined && text.includes(space));
  if (spaced) throw fail(`user-defined piece: expected one without a space, got ${JSON.stringify(spaced.text)}`);

  const asLlama = splitsAsLlama(model);
  const prepends = model.addsDummyPrefix && addPrefixSpace;
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: pieceTokens(model),
    normalizer: asLlama ? null : { type: 'Sequence', normalizers: normalizers(model, prepends) },
    pre_tokenizer: asLlama ? { type: 'Metaspace', replacement: space, prepend_scheme: prepends ? (legacy ? 'always' : 'first') : 'never', split: false } : null,
    post_processor: null,
    decoder: pieceDecoder({ byteFallback, stripsFirstSpace: prepends }),
    model: algorithm === 'bpe' ? bpeModel(model) : { type: 'Unigram', unk_id: model.unknownId, vocab: pieces.map(({ text, score }) => [text, score]), byte_fallback: byteFallback },
  };
}

/** Whether a model leaves the text as it is but for the space in front. */
export const splitsAsLlama = ({ algorithm, charsmap, addsDummyPrefix, removesExtraWhitespaces }: SentencePieceModel): boolean =>
  algorithm === 'bpe' && charsmap.length === 0 && addsDummyPrefix && !removesExtraWhitespaces;

/** Tokens that are found in the text before it is split: control pieces (special) and the user's. */
export function pieceTokens({ pieces }: SentencePieceModel): AddedToken[] {
  return pieces.flatMap(({ text, kind }, id) => {
    const special = kind === pieceKinds.control || kind === pieceKinds.unknown;
    return special || kind === pieceKinds.userDefined ? [addedToken(id, text, special)] : [];
  });
}

function bpeModel({ pieces, unknownId, byteFallback }: SentencePieceModel): Json {
  const texts = pieces.map(({ text }) => text);
  const merges = mergesFromScores(texts, pieces.map(({ score }) => score), (id) => pieces[id].kind === pieceKinds.normal);
  return bpe(vocabularyOf(texts), merges, { unk_token: texts[unknownId], fuse_unk: true, byte_fallback: byteFallback });
}

/** SentencePiece's own steps, in their order (normalizer.cc). `\A` and `\z` are the text's ends; `^` and `$` would be a line's. */
function normalizers({ charsmap, removesExtraWhitespaces }: SentencePieceModel, prepends: boolean): Json[] {
  const remove = (regex: string, content = ''): Json => ({ type: 'Replace', pattern: { Regex: regex }, content });
  return [
    ...(charsmap.length > 0 ? [{ type: 'Precompiled', precompiled_charsmap: charsmap.toString('base64') }] : []),
    ...(removesExtraWhitespaces ? [remove('\\A +'), remove(' {2,}', ' ')] : []),
    replaceSpaces,
    ...(removesExtraWhitespaces ? [remove(`${space}+\\z`)] : []),
    ...(prepends ? [{ type: 'Prepend', prepend: space }] : []),
  ];
}
