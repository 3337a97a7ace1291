import { createRequire } from 'node:module';
import type * as TokenizersLibrary from 'tokenizers';
import { EngineError } from '../errors.js';
import { ChatTemplate } from './chat-template.js';
import { FormatError } from './format-error.js';
import type { ChatMessage, Tokenizer } from './tokenizer.js';

/** A CommonJS package whose exports Node cannot see statically. */
const native = createRequire(import.meta.url)('tokenizers') as typeof TokenizersLibrary;
type Native = TokenizersLibrary.Tokenizer;

export const specialTokenNames = ['bos_token', 'eos_token', 'unk_token', 'pad_token'] as const;
export type SpecialTokens = Partial<Record<(typeof specialTokenNames)[number], string>>;

/** What a tokenizer is made of. */
export interface TokenizerParts {
  /** The file that errors name. */
  path: string;
  /** Content of tokenizer.json. */
  json: string;
  special: SpecialTokens;
  chatTemplate?: string;
  /** @default whether tokenizer.json's post-processor does */
  addsBos?: boolean;
  /** Ids of texts. @default the library's, by `json` */
  encodeBatch?: (texts: string[]) => Promise<number[][]>;
  files: () => Promise<Map<string, Uint8Array>>;
}

/** Hugging Face's own tokenizer library behind our interface. Throws `bad_header` when it refuses tokenizer.json. */
export async function createTokenizer(parts: TokenizerParts): Promise<Tokenizer> {
  let library: Native;
  try {
    library = native.Tokenizer.fromString(parts.json);
  } catch (error) {
    throw new FormatError('bad_header', parts.path, `tokenizer: expected a tokenizer.json, got one that is refused: ${(error as Error).message}`);
  }
  // transformers ignores these settings of the file too.
  library.disableTruncation();
  library.disablePadding();
  const id = (token: string | undefined) => (token === undefined ? undefined : (library.tokenToId(token) ?? undefined));
  const eosTokenId = id(parts.special.eos_token);
  if (eosTokenId === undefined) throw new FormatError('unsupported', parts.path, `eos_token: expected a token of the vocabulary, got ${parts.special.eos_token ?? 'none'}`);
  const bosTokenId = id(parts.special.bos_token);
  const first = (await library.encode('a', null, { addSpecialTokens: true })).getIds()[0];
  return new NativeTokenizer(library, parts, {
    eosTokenId, bosTokenId, padTokenId: id(parts.special.pad_token),
    addsBos: bosTokenId !== undefined && (parts.addsBos ?? first === bosTokenId),
  });
}

/** Ids by the vocabulary of a tokenizer.json alone: nothing is looked for in the texts, and they are not changed. */
export function vocabularyEncoder(json: Record<string, unknown>): (texts: string[]) => Promise<number[][]> {
  const library = native.Tokenizer.fromString(JSON.stringify({ ...json, added_tokens: [], normalizer: null, pre_tokenizer: null, post_processor: null }));
  return (texts) => idsOf(library, texts);
}

const idsOf = async (library: Native, texts: string[]): Promise<number[][]> => (await library.encodeBatch(texts, { addSpecialTokens: false })).map((encoding) => encoding.getIds());

class NativeTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly bosTokenId?: number;
  readonly eosTokenId: number;
  readonly padTokenId?: number;
  readonly addsBos: boolean;
  private readonly template?: ChatTemplate;

  constructor(
    private readonly library: Native,
    private readonly parts: TokenizerParts,
    ids: { bosTokenId?: number; eosTokenId: number; padTokenId?: number; addsBos: boolean },
  ) {
    this.vocabSize = library.getVocabSize(true);
    this.bosTokenId = ids.bosTokenId;
    this.eosTokenId = ids.eosTokenId;
    this.padTokenId = ids.padTokenId;
    this.addsBos = ids.addsBos;
    if (parts.chatTemplate !== undefined) this.template = new ChatTemplate(parts.chatTemplate, parts.special);
  }

  get chatTemplate(): string | undefined {
    return this.template?.source;
  }

  async encode(text: string, options?: { addBos?: boolean }): Promise<number[]> {
    const ids = this.parts.encodeBatch ? (await this.parts.encodeBatch([text]))[0] : (await this.library.encode(text, null, { addSpecialTokens: false })).getIds();
    return this.withBos(ids, options?.addBos);
  }

  async encodeBatch(texts: string[], options?: { addBos?: boolean }): Promise<number[][]> {
    const rows = this.parts.encodeBatch ? await this.parts.encodeBatch(texts) : await idsOf(this.library, texts);
    return rows.map((ids) => this.withBos(ids, options?.addBos));
  }

  decode(ids: ArrayLike<number>, options?: { skipSpecial?: boolean }): Promise<string> {
    return this.library.decode(Array.from(ids), options?.skipSpecial ?? false);
  }

  decodeBatch(ids: ArrayLike<number>[], options?: { skipSpecial?: boolean }): Promise<string[]> {
    return this.library.decodeBatch(ids.map((row) => Array.from(row)), options?.skipSpecial ?? false);
  }

  idToToken(id: number): string | undefined {
    return this.library.idToToken(id) ?? undefined;
  }

  tokenToId(token: string): number | undefined {
    return this.library.tokenToId(token) ?? undefined;
  }

  renderChat(messages: ChatMessage[], options: { addGenerationPrompt: boolean }): string {
    if (!this.template) throw new EngineError('invalidInput', 'unsupported', `${this.parts.path}: chat template: expected one, got none`);
    return this.template.render(messages, options);
  }

  files(): Promise<Map<string, Uint8Array>> {
    return this.parts.files();
  }

  private withBos(ids: number[], addBos = false): number[] {
    return addBos && this.bosTokenId !== undefined && ids[0] !== this.bosTokenId ? [this.bosTokenId, ...ids] : ids;
  }
}
