import { argMax, reshape, tidy, type Tensor2D } from '@tensorflow/tfjs-core';
import type { Decoder } from '../tensor/decoder.js';
import type { AdapterRows } from './adapter-rows.js';
import { runBlocks } from './blocks.js';
import { KvCache } from './kv-cache.js';
import { embed, logitsOf, type BranchedModel, type Llama } from './llama.js';
import { readPrompts } from './read-prompts.js';
import { ropeTables } from './rope-tables.js';
import { sampleToken, type Sampling } from './sample.js';

/** Writes answers step by step with the model's own ops, on any backend. */
export class ComposedDecoder implements Decoder {
  readonly ahead = 1;
  private readonly cache: KvCache;
  private readonly lengths: readonly number[];
  private rows: readonly number[];
  /** The residual stream at each row's last token that was read, [rows, hidden]. */
  private hidden?: Tensor2D;
  private tokens: number[] = [];
  private step = 0;

  constructor(
    private readonly llama: Llama,
    prompts: readonly (readonly number[])[],
    private readonly sampling?: Sampling,
    private readonly adapters?: AdapterRows,
  ) {
    this.lengths = prompts.map((prompt) => prompt.length);
    this.rows = prompts.map((_, row) => row);
    this.cache = new KvCache(llama.model.config, this.lengths, Math.max(...this.lengths));
    this.hidden = readPrompts(llama, prompts, (layer, q, k, v, segments, rope) => this.cache.attendPrompt(layer, q, k, v, segments, rope), { adapters });
  }

  queue(): void {
    if (this.step++ === 0) return; // the prompts are read: the first token is to be picked
    this.cache.settle();
    this.hidden = this.readNext();
  }

  async read(): Promise<{ rows: readonly number[]; tokens: readonly number[] }> {
    this.tokens = await this.nextTokens();
    return { rows: this.rows, tokens: this.tokens };
  }

  keep(rows: readonly number[]): void {
    if (rows.length === 0 || rows.length === this.rows.length) return;
    const places = this.rows.flatMap((row, place) => (rows.includes(row) ? [place] : []));
    this.cache.select(places);
    this.rows = places.map((place) => this.rows[place]);
    this.tokens = places.map((place) => this.tokens[place]);
  }

  dispose(): void {
    this.hidden?.dispose();
    this.cache.dispose();
    this.adapters?.dispose();
  }

  /** Reads one token a row into the cache. */
  private readNext(): Tensor2D {
    const shape: [number, number] = [this.tokens.length, 1];
    return tidy(() => {
      // The token before this step's was the answer's number `step` - 2, from 0.
      const { adapter } = this.branched();
      const rope = ropeTables(this.llama.model.config, this.rows.map((row) => this.lengths[row] + this.step - 2), shape);
      const x = embed(this.llama.model, { shape, inputIds: Int32Array.from(this.tokens) });
      return runBlocks(this.llama, x, {
        shape, rope,
        attend: (layer, q, k, v, rope) => this.cache.attendNext(layer, q, k, v, rope),
        lora: (path) => adapter?.branch(path),
      });
    });
  }

  /** The model as the present rows go through it; within a tidy. */
  private branched(): BranchedModel {
    return this.adapters ? { model: this.llama.model, adapter: this.adapters.branches(this.rows) } : this.llama;
  }

  /** One token a row; the residual stream is disposed. */
  private async nextTokens(): Promise<number[]> {
    const hidden = this.hidden!;
    const scores = tidy(() => {
      const logits = logitsOf(this.branched(), hidden);
      return this.sampling ? reshape(logits, [-1]) : argMax(logits, 1);
    });
    hidden.dispose();
    this.hidden = undefined;
    const values = await scores.data();
    scores.dispose();
    const { sampling } = this;
    if (!sampling) return Array.from(values);
    const vocab = values.length / this.rows.length;
    return this.rows.map((row, place) => sampleToken((values as Float32Array).subarray(place * vocab, (place + 1) * vocab), sampling, row, this.step - 1));
  }
}
