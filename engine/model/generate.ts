import { EngineError } from '../errors.js';
import type { Tokenizer } from '../formats/tokenizer.js';
import { AdapterRows } from './adapter-rows.js';
import type { LoraAdapter } from './adapter.js';
import { ComposedDecoder } from './composed-decoder.js';
import { startFusedDecoder } from './fused-decoder.js';
import type { Llama } from './llama.js';
import type { Sampling } from './sample.js';

export interface GenerateOptions {
  maxNewTokens: number;
  /** An answer ends before one of these tokens. @default the model's end tokens */
  stopIds?: readonly number[];
  /** An answer ends before one of these texts. @default none */
  stopStrings?: readonly string[];
  /** The adapter of each prompt, undefined for the base alone; instead of the llama's own. @default the llama's own for all */
  adapters?: readonly (LoraAdapter | undefined)[];
  /** @default greedy */
  sampling?: Sampling;
  /** Called after each step with the tokens written by the longest answer so far; a promise is awaited. */
  onStep?: (step: number) => void | Promise<void>;
}

export interface Generated {
  /** The answer's tokens, the stop token not among them. */
  ids: number[];
  /** Without special tokens, cut before the stop text. */
  text: string;
  /** Ended by a stop token or stop text, not by `maxNewTokens` or the context's end. */
  stopped: boolean;
}

/**
 * Continues several prompts at once, with a cache of keys and values. Each answer is the one that its prompt alone would get, but for
 * a near tie of two tokens: a backend may round differently for another number of rows.
 * @param prompts Token ids, one non-empty list a row.
 */
export async function generate(llama: Llama, tokenizer: Tokenizer, prompts: readonly (readonly number[])[], options: GenerateOptions): Promise<Generated[]> {
  const { config } = llama.model;
  const { maxNewTokens, stopIds = config.eosTokenIds, stopStrings = [], sampling, onStep, adapters } = options;
  checkPrompts(prompts, config.contextLength);
  if (adapters) checkAdapters(llama, adapters, prompts.length);
  const answers: Generated[] = prompts.map(() => ({ ids: [], text: '', stopped: false }));
  if (prompts.length === 0 || maxNewTokens === 0) return answers;

  /** Tokens that each row may come to have. */
  const limits = prompts.map(({ length }) => Math.min(maxNewTokens, config.contextLength - length));
  const longest = Math.max(...prompts.map(({ length }, row) => length + limits[row]));
  const cut = new Set<Generated>();
  const decoder = adapters
    ? new ComposedDecoder(llama, prompts, sampling, new AdapterRows(adapters))
    : (startFusedDecoder(llama, prompts, longest, sampling) ?? new ComposedDecoder(llama, prompts, sampling));
  try {
    let open = prompts.map((_, row) => row);
    let queued = 0;
    for (let step = 1; open.length > 0; step++) {
      const needed = Math.min(step - 1 + decoder.ahead, Math.max(...open.map((row) => limits[row])));
      for (; queued < needed; queued++) decoder.queue();
      const { rows, tokens } = await decoder.read();
      const places = rows.flatMap((row, place) => (open.includes(row) ? [place] : []));
      for (const place of places) {
        const answer = answers[rows[place]];
        if (stopIds.includes(tokens[place])) answer.stopped = true;
        else answer.ids.push(tokens[place]);
      }
      if (stopStrings.length > 0) await cutAtStopStrings(tokenizer, open.map((row) => answers[row]), stopStrings, cut);
      await onStep?.(step);
      open = open.filter((row) => !answers[row].stopped && answers[row].ids.length < limits[row]);
      decoder.keep(open);
    }
  } finally {
    decoder.dispose();
  }
  await Promise.all(answers.map(async (answer) => {
    if (!cut.has(answer)) answer.text = await tokenizer.decode(answer.ids, { skipSpecial: true });
  }));
  return answers;
}

function checkAdapters(llama: Llama, adapters: readonly (LoraAdapter | undefined)[], rows: number): void {
  const refuse = (message: string): never => {
    throw new EngineError('invalidInput', 'adapter_rows', message);
  };
  if (adapters.length !== rows) refuse(`adapters: expected one for each of ${rows} prompts, got ${adapters.length}`);
  if (llama.adapter) refuse('adapters: expected a model without an adapter of its own, got one with');
}

function checkPrompts(prompts: readonly (readonly number[])[], contextLength: number): void {
  prompts.forEach(({ length }, row) => {
    if (length === 0) throw new EngineError('invalidInput', 'empty_prompt', `prompts[${row}]: expected at least one token, got none`);
    if (length >= contextLength) {
      throw new EngineError('invalidInput', 'long_prompt', `prompts[${row}]: expected fewer than ${contextLength} tokens, the model's context, got ${length}`);
    }
  });
}

/** Marks the answers in which a stop text has appeared, cuts their text there and files them in `cut`. */
async function cutAtStopStrings(tokenizer: Tokenizer, answers: Generated[], stopStrings: readonly string[], cut: Set<Generated>): Promise<void> {
  const written = answers.filter(({ stopped }) => !stopped);
  const texts = await tokenizer.decodeBatch(written.map(({ ids }) => ids), { skipSpecial: true });
  written.forEach((answer, i) => {
    const found = stopStrings.map((stop) => texts[i].indexOf(stop)).filter((at) => at >= 0);
    if (found.length === 0) return;
    answer.stopped = true;
    answer.text = texts[i].slice(0, Math.min(...found));
    cut.add(answer);
  });
}
