import { FormatError } from './format-error.js';
import { specialTokenNames } from './native-tokenizer.js';
import { addedToken, type AddedToken, type Json } from './tokenizer-json.js';

/** The files beside a vocabulary that name tokens which are found in the text before it is split. */
export interface TokenFiles {
  /** tokenizer_config.json. */
  config: Json;
  /** special_tokens_map.json. */
  map: Json;
  /** added_tokens.json: text → id. */
  added: Json;
}

type Named = Partial<AddedToken> & { content: string };

/**
 * All added tokens of a tokenizer, as transformers gathers them: first the vocabulary's own, then those of `added_tokens_decoder`
 * (else of added_tokens.json), then the special tokens. The first to name a text decides how it is found. Throws `bad_header`
 * when two claim one id.
 * @param own those of tokenizer.json
 * @param vocab text → id of the vocabulary
 * @param pieces control and user-defined pieces of a SentencePiece model, which come last
 */
export function gatherAddedTokens(own: readonly AddedToken[], vocab: ReadonlyMap<string, number>, files: TokenFiles, path: string, pieces: readonly AddedToken[] = []): AddedToken[] {
  const special = specialTokens(files);
  const isSpecial = new Set(special.map(({ content }) => content));
  const gathered = new Map(own.map((token) => [token.content, token]));
  let next = Math.max(vocab.size, ...own.map(({ id }) => id + 1));
  for (const token of [...declaredTokens(files, isSpecial), ...special, ...pieces]) {
    if (gathered.has(token.content)) continue;
    const id = vocab.get(token.content) ?? next++;
    if (token.id !== undefined && token.id !== id) {
      throw new FormatError('bad_header', path, `added token ${JSON.stringify(token.content)}: expected its id to be ${id}, the vocabulary's next or own, got ${token.id}`);
    }
    gathered.set(token.content, { ...addedToken(id, token.content, isSpecial.has(token.content)), ...token, id, special: token.special === true || isSpecial.has(token.content) });
  }
  return [...gathered.values()];
}

/** Of `added_tokens_decoder`, or of added_tokens.json, by their ids. */
function declaredTokens({ config, added }: TokenFiles, isSpecial: ReadonlySet<string>): Named[] {
  const decoder = config.added_tokens_decoder;
  const declared: Named[] = typeof decoder === 'object' && decoder !== null
    ? Object.entries(decoder).flatMap(([id, token]) => named(token).map((entry) => ({ ...entry, id: Number(id) })))
    : Object.entries(added).flatMap(([content, id]) => (typeof id === 'number' ? [{ content, id, normalized: !isSpecial.has(content), special: isSpecial.has(content) }] : []));
  return declared.sort((a, b) => a.id! - b.id!);
}

/** bos, eos, unk and pad, and the additional ones. */
function specialTokens({ config, map }: TokenFiles): Named[] {
  const one = specialTokenNames.flatMap((name) => named(config[name] ?? map[name]));
  const list = ['additional_special_tokens', 'extra_special_tokens'].flatMap((key) => config[key] ?? map[key] ?? []);
  return [...one, ...list.flatMap(named)].map((token) => ({ ...token, special: true }));
}

/** A token is written as its text, or as an object with its text and how it is found. */
function named(value: unknown): Named[] {
  if (typeof value === 'string') return [{ content: value }];
  if (typeof value !== 'object' || value === null) return [];
  const { content, single_word, lstrip, rstrip, normalized, special } = value as Record<string, unknown>;
  if (typeof content !== 'string' || content === '') return [];
  const flags = Object.entries({ single_word, lstrip, rstrip, normalized, special }).filter(([, flag]) => typeof flag === 'boolean');
  return [{ content, ...Object.fromEntries(flags) }];
}
