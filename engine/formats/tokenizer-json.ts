/** Parts of a tokenizer.json, the file of Hugging Face's tokenizers library, that more than one format is turned into. */

export type Json = Record<string, unknown>;

/** SentencePiece writes a space as this character. */
export const space = '\u2581';

export const replaceSpaces: Json = { type: 'Replace', pattern: { String: ' ' }, content: space };

/** Turns pieces into text: spaces again, bytes joined to characters, and without the space that was put in front. */
export function pieceDecoder({ byteFallback, stripsFirstSpace }: { byteFallback: boolean; stripsFirstSpace: boolean }): Json {
  const decoders: Json[] = [{ type: 'Replace', pattern: { String: space }, content: ' ' }];
  if (byteFallback) decoders.push({ type: 'ByteFallback' });
  decoders.push({ type: 'Fuse' });
  if (stripsFirstSpace) decoders.push({ type: 'Strip', content: ' ', start: 1, stop: 0 });
  return { type: 'Sequence', decoders };
}

export function bpe(vocab: ReadonlyMap<string, number>, merges: string[], options: Json): Json {
  return {
    type: 'BPE', dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: false, byte_fallback: false,
    ignore_merges: false, ...options, vocab: Object.fromEntries(vocab), merges,
  };
}

/** Text → id. A text that occurs twice keeps its first id, as a converter's padding tokens never do. */
export function vocabularyOf(tokens: readonly string[]): Map<string, number> {
  const vocab = new Map<string, number>();
  tokens.forEach((token, id) => {
    if (!vocab.has(token)) vocab.set(token, id);
  });
  return vocab;
}

/** Puts BOS in front of every text. */
export function bosInFront(bos: string, id: number): Json {
  const token = { SpecialToken: { id: bos, type_id: 0 } };
  return {
    type: 'TemplateProcessing',
    single: [token, { Sequence: { id: 'A', type_id: 0 } }],
    pair: [token, { Sequence: { id: 'A', type_id: 0 } }, { SpecialToken: { id: bos, type_id: 1 } }, { Sequence: { id: 'B', type_id: 1 } }],
    special_tokens: { [bos]: { id: bos, ids: [id], tokens: [bos] } },
  };
}

/** The same tokenizer with BOS in front of every text, or without. */
export function withBos<T extends Json>(json: T, { content, id }: Pick<AddedToken, 'content' | 'id'>, adds: boolean): T {
  return putsInFront(json.post_processor, content) === adds ? json : { ...json, post_processor: adds ? bosInFront(content, id) : null };
}

/** Whether a post-processor, or one of a sequence, starts a text with the token. */
function putsInFront(processor: unknown, token: string): boolean {
  const { processors, single } = (processor ?? {}) as { processors?: unknown[]; single?: { SpecialToken?: { id: string } }[] };
  return processors?.some((part) => putsInFront(part, token)) ?? single?.[0]?.SpecialToken?.id === token;
}

/** A token that is found in the text before it is split. */
export interface AddedToken {
  id: number;
  content: string;
  single_word: boolean;
  lstrip: boolean;
  rstrip: boolean;
  normalized: boolean;
  special: boolean;
}

export const addedToken = (id: number, content: string, special: boolean): AddedToken => ({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special });

/**
 * SentencePiece merges the neighbours whose union has the best score. As BPE merges: every way to make a token out of two,
 * by the token's score, best first.
 * @param isNormal whether a token takes part in merges
 */
export function mergesFromScores(tokens: readonly string[], scores: readonly number[], isNormal: (id: number) => boolean): string[] {
  const ids = new Map<string, number>();
  tokens.forEach((token, id) => {
    if (isNormal(id)) ids.set(token, id);
  });
  const merges: { text: string; id: number; cut: number }[] = [];
  for (const [token, id] of ids) {
    for (let cut = 1; cut < token.length; cut++) {
      const [left, right] = [token.slice(0, cut), token.slice(cut)];
      if (ids.has(left) && ids.has(right)) merges.push({ text: `${left} ${right}`, id, cut });
    }
  }
  merges.sort((a, b) => scores[b.id] - scores[a.id] || a.id - b.id || a.cut - b.cut);
  return merges.map(({ text }) => text);
}
