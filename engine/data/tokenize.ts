import { EngineError } from '../errors.js';
import type { Tokenizer } from '../formats/tokenizer.js';
import { GrowingArray } from './growing-array.js';
import type { Example } from './template.js';
import { TokenTable } from './token-table.js';

const ROWS_AT_ONCE = 512;

export interface TokenizeOptions {
  /** Longest row in tokens. */
  maxLength: number;
  /** End rows with EOS. */
  eos: boolean;
  /** What the loss counts: the completion, or prompt and completion. */
  loss: 'response' | 'all';
  /** Called with the number of rows done. */
  onProgress?: (done: number) => void;
}

/** A split's rows as tokens. */
export interface TokenizedRows {
  rows: TokenTable;
  /** Of each row: tokens of its prompt before truncation, and whether it was truncated (1). */
  promptTokens: Uint32Array;
  truncated: Uint8Array;
}

interface TokenizedRow {
  ids: Int32Array;
  mask: Uint8Array;
  promptTokens: number;
  truncated: boolean;
}

type Encoder = Pick<Tokenizer, 'encodeBatch' | 'addsBos' | 'eosTokenId'>;

/** A prompt as it is asked, BOS in front where the model was trained with one. */
export const encodePrompts = (tokenizer: Encoder, prompts: string[]): Promise<number[][]> => tokenizer.encodeBatch(prompts, { addBos: tokenizer.addsBos });

/**
 * Prompt, completion and, if wanted, EOS of each example as tokens.
 *
 * - A row begins with exactly the tokens that the prompt alone has, so what is asked later is what was trained. Where the whole
 *   text's tokens begin with them, the row is those; where tokens straddle the boundary, prompt and completion are tokenised apart.
 * - EOS ends every row that is not truncated, once, and the loss always counts it.
 * - A row over `maxLength` is cut at its end and has no EOS: it is not where the answer ends.
 * - The loss never counts a row's first token, which nothing predicts.
 *
 * @throws EngineError `no_trainable_token` naming the rows (from 1) that are left without a token to train
 */
export async function tokenizeExamples(tokenizer: Encoder, examples: Iterable<Example> | AsyncIterable<Example>, options: TokenizeOptions): Promise<TokenizedRows> {
  const rows = new TokenTable();
  const promptTokens = new GrowingArray(Uint32Array);
  const truncated = new GrowingArray(Uint8Array);
  const untrainable: number[] = [];
  const add = async (some: readonly Example[]): Promise<void> => {
    for (const row of await tokenizeSome(tokenizer, some, options)) {
      if (!row.mask.includes(1)) untrainable.push(rows.count);
      rows.push(row);
      promptTokens.push(row.promptTokens);
      truncated.push(row.truncated ? 1 : 0);
    }
    options.onProgress?.(rows.count);
  };

  let waiting: Example[] = [];
  for await (const example of examples) {
    waiting.push(example);
    if (waiting.length < ROWS_AT_ONCE) continue;
    await add(waiting);
    waiting = [];
  }
  if (waiting.length > 0) await add(waiting);
  refuseUntrainable(untrainable, promptTokens.values, options.maxLength);
  return { rows, promptTokens: promptTokens.values, truncated: truncated.values };
}

async function tokenizeSome(tokenizer: Encoder, examples: readonly Example[], { maxLength, loss, eos }: TokenizeOptions): Promise<TokenizedRow[]> {
  const prompts = await encodePrompts(tokenizer, examples.map(({ prompt }) => prompt));
  const wholes = await encodePrompts(tokenizer, examples.map(({ prompt, completion }) => prompt + completion));
  const straddling = examples.flatMap((_, row) => (startsWith(wholes[row], prompts[row]) ? [] : [row]));
  const completions = await tokenizer.encodeBatch(straddling.map((row) => examples[row].completion));
  straddling.forEach((row, i) => (wholes[row] = [...prompts[row], ...completions[i]]));

  return wholes.map((tokens, row): TokenizedRow => {
    const promptTokens = prompts[row].length;
    const hasEnd = !eos || (tokens.length > promptTokens && tokens.at(-1) === tokenizer.eosTokenId);
    const whole = hasEnd ? tokens : [...tokens, tokenizer.eosTokenId];
    const ids = Int32Array.from(whole.slice(0, maxLength));
    const mask = new Uint8Array(ids.length).fill(1, loss === 'all' ? 1 : Math.max(promptTokens, 1));
    return { ids, mask, promptTokens, truncated: whole.length > maxLength };
  });
}

const startsWith = (ids: readonly number[], start: readonly number[]): boolean => start.every((id, i) => ids[i] === id);

function refuseUntrainable(untrainable: readonly number[], promptTokens: Uint32Array, maxLength: number): void {
  if (untrainable.length === 0) return;
  const shown = untrainable.slice(0, 5).map((row) => `row ${row + 1} (prompt of ${promptTokens[row]} tokens)`).join(', ');
  const more = untrainable.length > 5 ? ` and ${untrainable.length - 5} more` : '';
  throw new EngineError(
    'invalidInput', 'no_trainable_token',
    `expected every row to keep a token of its response within ${maxLength} tokens, got none in ${shown}${more}; raise format.maxLength or shorten the prompt`,
  );
}
