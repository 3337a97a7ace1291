/** One turn of a conversation, as chat templates take it. */
export interface ChatMessage {
  role: string;
  content: string;
}

/** Text ↔ token ids. Asynchronous because the native library works on its own threads. */
export interface Tokenizer {
  /**
   * Special tokens written in the text (`<|im_end|>`) become their ids. Nothing is added around the text, except
   * `bosTokenId` in front when `addBos` is set, the model has one, and the text does not start with it already.
   * `addBos` defaults to false; `addsBos` says what the model was trained with. EOS is never added: where a row ends is the run's
   * format's to say, whatever `add_eos_token` of tokenizer_config.json.
   */
  encode(text: string, options?: { addBos?: boolean }): Promise<number[]>;
  /** As `encode`, for many texts at once, in parallel. */
  encodeBatch(texts: string[], options?: { addBos?: boolean }): Promise<number[][]>;
  /** `skipSpecial` leaves special tokens out. @default false */
  decode(ids: ArrayLike<number>, options?: { skipSpecial?: boolean }): Promise<string>;
  decodeBatch(ids: ArrayLike<number>[], options?: { skipSpecial?: boolean }): Promise<string[]>;
  /** The token's entry in the vocabulary (byte-level alphabet and all); undefined for an id outside it. */
  idToToken(id: number): string | undefined;
  tokenToId(token: string): number | undefined;
  /** Number of ids, special tokens included. */
  readonly vocabSize: number;
  readonly bosTokenId?: number;
  readonly eosTokenId: number;
  readonly padTokenId?: number;
  /** The model's own tokenizer puts BOS in front of a text. */
  readonly addsBos: boolean;
  /** Jinja source; absent when the model has none. */
  readonly chatTemplate?: string;
  /** Throws `unsupported` when the model has no chat template, and what the template raises as `chat_template`. */
  renderChat(messages: ChatMessage[], options: { addGenerationPrompt: boolean }): string;
  /** `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json` for a Hugging Face directory; `tokenizer.model` where there was one. */
  files(): Promise<Map<string, Uint8Array>>;
}
