import { EngineError } from '../errors.js';
import { splitNameOf } from './gguf-tokenizer.js';
import { tokenKinds } from './gguf-vocabulary.js';
import { bool, text, u32, type GgufField } from './gguf-write.js';
import type { Tokenizer } from './tokenizer.js';

type Json = Record<string, unknown>;

/** What of a tokenizer.json goes into a GGUF. */
interface TokenizerJson {
  normalizer?: Json | null;
  pre_tokenizer?: Json | null;
  added_tokens?: { id: number; content: string; special: boolean }[];
  model: { type?: string; vocab: Record<string, number>; merges: (string | [string, string])[]; byte_fallback?: boolean; unk_token?: string | null };
}

/**
 * A tokenizer as a GGUF's metadata: vocabulary, merges or scores, special tokens and chat template.
 * @param vocabSize rows of the embedding; ids beyond the tokenizer's become unused tokens
 * @param endTokens every id that ends an answer
 * Throws `gguf_unsupported` for a tokenizer that llama.cpp has no kind for.
 */
export async function ggufTokenizer(tokenizer: Tokenizer, vocabSize: number, endTokens: readonly number[]): Promise<Map<string, GgufField>> {
  const json = JSON.parse(Buffer.from((await tokenizer.files()).get('tokenizer.json')!).toString('utf8')) as TokenizerJson;
  if (json.model.type !== undefined && json.model.type !== 'BPE') throw unsupported(`tokenizer: expected BPE, got ${json.model.type}`);
  const metadata = json.model.byte_fallback === true ? sentencePiece(json) : byteLevel(json);
  const { tokens, kinds } = vocabularyOf(json, vocabSize);
  metadata.set('tokenizer.ggml.tokens', { type: 'strings', value: tokens });
  metadata.set('tokenizer.ggml.token_type', { type: 'i32s', value: kinds });
  if (json.model.byte_fallback === true) metadata.set('tokenizer.ggml.scores', { type: 'f32s', value: scoresOf(json, tokens, kinds) });

  const unknown = json.model.unk_token == null ? undefined : tokenizer.tokenToId(json.model.unk_token);
  const [turnEnd, messageEnd] = endTokens.filter((id) => id !== tokenizer.eosTokenId);
  const ids: [string, number | undefined][] = [
    ['bos', tokenizer.bosTokenId], ['eos', tokenizer.eosTokenId], ['unknown', unknown], ['padding', tokenizer.padTokenId], ['eot', turnEnd], ['eom', messageEnd],
  ];
  for (const [name, id] of ids) if (id !== undefined) metadata.set(`tokenizer.ggml.${name}_token_id`, u32(id));
  metadata.set('tokenizer.ggml.add_bos_token', bool(tokenizer.addsBos));
  metadata.set('tokenizer.ggml.add_eos_token', bool(false));
  if (tokenizer.chatTemplate !== undefined) metadata.set('tokenizer.chat_template', text(tokenizer.chatTemplate));
  return metadata;
}

const unsupported = (message: string) => new EngineError('invalidInput', 'gguf_unsupported', message);

function vocabularyOf({ model, added_tokens: added = [] }: TokenizerJson, vocabSize: number): { tokens: string[]; kinds: number[] } {
  const tokens = Array.from({ length: vocabSize }, (_, id) => `[PAD${id}]`);
  const kinds = new Array<number>(vocabSize).fill(tokenKinds.unused);
  const put = (token: string, id: number, kind: number) => {
    if (id >= vocabSize) throw unsupported(`tokenizer: token ${JSON.stringify(token)}: expected an id below ${vocabSize}, the rows of the embedding, got ${id}`);
    tokens[id] = token;
    kinds[id] = kind;
  };
  for (const [token, id] of Object.entries(model.vocab)) {
    put(token, id, model.byte_fallback === true && /^<0x[0-9A-F]{2}>$/.test(token) ? tokenKinds.byte : tokenKinds.normal);
  }
  for (const { id, content, special } of added) put(content, id, special ? tokenKinds.control : tokenKinds.userDefined);
  if (model.byte_fallback === true && model.unk_token != null) put(model.unk_token, model.vocab[model.unk_token], tokenKinds.unknown);
  return { tokens, kinds };
}

const mergePair = (merge: string | [string, string]): [string, string] => (typeof merge === 'string' ? (merge.split(' ') as [string, string]) : merge);

/** Byte-level BPE: GGUF names how a text is split before merging. */
function byteLevel({ normalizer, pre_tokenizer: preTokenizer, model }: TokenizerJson): Map<string, GgufField> {
  const name = splitNameOf(normalizer ?? null, preTokenizer ?? null);
  if (name === undefined) throw unsupported(`tokenizer: expected a split that llama.cpp has a name for, got ${JSON.stringify({ normalizer, pre_tokenizer: preTokenizer }).slice(0, 300)}`);
  return new Map<string, GgufField>([
    ['tokenizer.ggml.model', text('gpt2')],
    ['tokenizer.ggml.pre', text(name)],
    ['tokenizer.ggml.merges', { type: 'strings', value: model.merges.map((merge) => mergePair(merge).join(' ')) }],
  ]);
}

/** SentencePiece BPE. */
function sentencePiece({ normalizer, pre_tokenizer: preTokenizer }: TokenizerJson): Map<string, GgufField> {
  const parts = [normalizer, ...((normalizer?.normalizers as Json[] | undefined) ?? []), preTokenizer, ...((preTokenizer?.pretokenizers as Json[] | undefined) ?? [])];
  const prefixed = parts.some((part) => part?.type === 'Prepend' || (part?.type === 'Metaspace' && (part.prepend_scheme ?? 'always') !== 'never'));
  return new Map<string, GgufField>([
    ['tokenizer.ggml.model', text('llama')],
    ['tokenizer.ggml.pre', text('default')],
    ['tokenizer.ggml.add_space_prefix', bool(prefixed)],
  ]);
}

/**
 * SentencePiece merges what makes the token of the best score, so a token's score is the place at which the merges first make it,
 * counted down from zero; what no merge makes comes after all of them.
 */
function scoresOf({ model }: TokenizerJson, tokens: readonly string[], kinds: readonly number[]): number[] {
  const places = new Map<string, number>();
  for (const merge of model.merges) {
    const made = mergePair(merge).join('');
    if (!places.has(made)) places.set(made, places.size);
  }
  let next = places.size;
  return tokens.map((token, id) => (kinds[id] === tokenKinds.normal ? -(places.get(token) ?? next++) : 0));
}
