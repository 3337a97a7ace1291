import { argMax, gather, reshape, tensor1d, tensor2d, tidy, type Tensor2D } from '@tensorflow/tfjs-core';
import { EngineError } from '../errors.js';
import type { Tokenizer } from '../formats/tokenizer.js';
import { blockForward, type BlockContext } from './block.js';
import { KvCache } from './kv-cache.js';
import { batchContext, embed, logitsOf, type Llama, type TokenBatch } from './llama.js';
import { ropeTables } from './rope-tables.js';
import { sampleToken, type Sampling } from './sample.js';

export interface GenerateOptions {
  maxNewTokens: number;
  /** An answer ends before one of these tokens. @default the model's end tokens */
  stopIds?: readonly number[];
  /** An answer ends before one of these texts. @default none */
  stopStrings?: readonly string[];
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

/** A row in the batch that is still being written. */
interface OpenRow {
  /** Its number among the prompts. */
  row: number;
  promptLength: number;
}

/**
 * Continues several prompts at once, with a cache of keys and values. Each answer is the one that its prompt alone would get.
 * @param prompts Token ids, one non-empty list a row.
 */
export async function generate(llama: Llama, tokenizer: Tokenizer, prompts: readonly (readonly number[])[], options: GenerateOptions): Promise<Generated[]> {
  const { config } = llama.model;
  const { maxNewTokens, stopIds = config.eosTokenIds, stopStrings = [], sampling, onStep } = options;
  checkPrompts(prompts, config.contextLength);
  const answers: Generated[] = prompts.map(() => ({ ids: [], text: '', stopped: false }));
  const cut = new Set<Generated>();
  if (prompts.length === 0 || maxNewTokens === 0) return answers;

  const lengths = prompts.map((prompt) => prompt.length);
  const cache = new KvCache(config, lengths, Math.max(...lengths));
  try {
    let open: OpenRow[] = lengths.map((promptLength, row) => ({ row, promptLength }));
    let hidden = readPrompts(llama, prompts, cache);
    for (let step = 0; ; step++) {
      const tokens = await nextTokens(llama, hidden, open, step, sampling);
      const kept: number[] = [];
      const writing = open.map(({ row }) => answers[row]);
      tokens.forEach((token, place) => {
        if (stopIds.includes(token)) writing[place].stopped = true;
        else writing[place].ids.push(token);
      });
      if (stopStrings.length > 0) await cutAtStopStrings(tokenizer, writing, stopStrings, cut);
      open.forEach(({ row, promptLength }, place) => {
        const { stopped, ids } = answers[row];
        if (!stopped && ids.length < maxNewTokens && promptLength + ids.length < config.contextLength) kept.push(place);
      });
      await onStep?.(step + 1);
      if (kept.length === 0) break;

      if (kept.length < open.length) {
        cache.select(kept);
        open = kept.map((place) => open[place]);
      }
      cache.settle();
      hidden = readNext(llama, kept.map((place) => tokens[place]), open, step, cache);
    }
  } finally {
    cache.dispose();
  }
  await Promise.all(answers.map(async (answer) => {
    if (!cut.has(answer)) answer.text = await tokenizer.decode(answer.ids, { skipSpecial: true });
  }));
  return answers;
}

function checkPrompts(prompts: readonly (readonly number[])[], contextLength: number): void {
  prompts.forEach(({ length }, row) => {
    if (length === 0) throw new EngineError('invalidInput', 'empty_prompt', `prompts[${row}]: expected at least one token, got none`);
    if (length >= contextLength) {
      throw new EngineError('invalidInput', 'long_prompt', `prompts[${row}]: expected fewer than ${contextLength} tokens, the model's context, got ${length}`);
    }
  });
}

/** Reads all prompts into the cache. The residual stream at each prompt's last token, [B, hidden]. */
function readPrompts(llama: Llama, prompts: readonly (readonly number[])[], cache: KvCache): Tensor2D {
  const width = Math.max(...prompts.map(({ length }) => length));
  const size = prompts.length * width;
  const batch: TokenBatch = { shape: [prompts.length, width], inputIds: new Int32Array(size), positions: new Int32Array(size), segments: new Int32Array(size) };
  prompts.forEach((prompt, row) => {
    for (let i = 0; i < prompt.length; i++) {
      batch.inputIds[row * width + i] = prompt[i];
      batch.positions[row * width + i] = i;
      batch.segments[row * width + i] = 1;
    }
  });
  return tidy(() => {
    const segments = tensor2d(batch.segments, batch.shape, 'int32');
    const attend: BlockContext['attend'] = (layer, q, k, v) => cache.attendPrompt(layer, q, k, v, segments);
    const hidden = runBlocks(llama, embed(llama.model, batch), { ...batchContext(llama, batch), attend });
    return gather(hidden, tensor1d(prompts.map(({ length }, row) => row * width + length - 1), 'int32'));
  });
}

/** Reads one token a row into the cache. The residual stream at it, [B, hidden]. */
function readNext(llama: Llama, tokens: number[], open: readonly OpenRow[], step: number, cache: KvCache): Tensor2D {
  const shape: [number, number] = [tokens.length, 1];
  return tidy(() => {
    const rope = ropeTables(llama.model.config, open.map(({ promptLength }) => promptLength + step), shape);
    const x = embed(llama.model, { shape, inputIds: Int32Array.from(tokens) });
    return runBlocks(llama, x, {
      shape, rope,
      attend: (layer, q, k, v) => cache.attendNext(layer, q, k, v),
      lora: (path) => llama.adapter?.branch(path),
    });
  });
}

function runBlocks(llama: Llama, embedded: Tensor2D, context: BlockContext): Tensor2D {
  let x = embedded;
  for (let layer = 0; layer < llama.model.config.layers; layer++) {
    const input = x;
    x = tidy(() => blockForward(llama.model, layer, input, context));
    input.dispose();
  }
  return x;
}

/** One token a row; `hidden` is disposed. */
async function nextTokens(llama: Llama, hidden: Tensor2D, open: readonly OpenRow[], step: number, sampling?: Sampling): Promise<number[]> {
  const scores = tidy(() => {
    const logits = logitsOf(llama, hidden);
    return sampling ? reshape(logits, [-1]) : argMax(logits, 1);
  });
  hidden.dispose();
  const values = await scores.data();
  scores.dispose();
  if (!sampling) return Array.from(values);
  const vocab = values.length / open.length;
  return open.map(({ row }, place) => sampleToken((values as Float32Array).subarray(place * vocab, (place + 1) * vocab), sampling, row, step));
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
