import { EngineError } from '../errors.js';
import type { TokenRows } from './batches.js';
import { GrowingArray } from './growing-array.js';

/** Row offsets are 32-bit numbers. */
const mostTokens = 2 ** 31 - 1;

/** Rows of tokens end to end, added one by one: 5 bytes a token and 4 a row. */
export class TokenTable implements TokenRows {
  readonly #ids = new GrowingArray(Int32Array);
  readonly #mask = new GrowingArray(Uint8Array);
  readonly #offsets = new GrowingArray(Int32Array);

  constructor() {
    this.#offsets.push(0);
  }

  static of(rows: Iterable<{ ids: Int32Array; mask: Uint8Array }>): TokenTable {
    const table = new TokenTable();
    for (const row of rows) table.push(row);
    return table;
  }

  /** @throws EngineError `too_many_tokens` */
  push({ ids, mask }: { ids: Int32Array; mask: Uint8Array }): void {
    if (this.#ids.length + ids.length > mostTokens) {
      throw new EngineError('invalidInput', 'too_many_tokens', `tokens: expected at most ${mostTokens} in a split, got more after ${this.count} rows; take a sample`);
    }
    this.#ids.pushAll(ids);
    this.#mask.pushAll(mask);
    this.#offsets.push(this.#ids.length);
  }

  get count(): number {
    return this.#offsets.length - 1;
  }

  length(row: number): number {
    const { values } = this.#offsets;
    return values[row + 1] - values[row];
  }

  ids(row: number): Int32Array {
    return this.#ids.values.subarray(...this.#span(row));
  }

  mask(row: number): Uint8Array {
    return this.#mask.values.subarray(...this.#span(row));
  }

  /** All rows, and where each begins. */
  flat(): { ids: Int32Array; mask: Uint8Array; offsets: Int32Array } {
    return { ids: this.#ids.values, mask: this.#mask.values, offsets: this.#offsets.values };
  }

  #span(row: number): [number, number] {
    const { values } = this.#offsets;
    return [values[row], values[row + 1]];
  }
}
