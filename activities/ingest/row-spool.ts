import { hash } from 'node:crypto';
import { createWriteStream, readSync, type WriteStream } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { once } from 'node:events';
import { GrowingArray } from '../../engine/data/growing-array.js';
import { questionOf } from '../../engine/data/splits.js';
import type { Row } from '../../engine/data/template.js';
import type { Digests } from './digest-set.js';

/** Rows that are read back at once, in the order of the file, whatever order they are asked for in. */
const window = 2048;

/** What is known of each spooled row without reading it; 45 bytes a row. */
export interface RowIndex {
  rows: number;
  /** 1: one of its columns has no text. */
  empty: Uint8Array;
  /** Characters of all columns. */
  characters: Uint32Array;
  /** Of the whole row. */
  identity: Digests;
  /** Of what the prompt shows of it, as `questionOf` sees it. */
  question: Digests;
}

/** Rows on disk, one JSON object a line, with an index of them in memory. */
export class RowSpool {
  readonly #offsets = new GrowingArray(Float64Array);
  readonly #empty = new GrowingArray(Uint8Array);
  readonly #characters = new GrowingArray(Uint32Array);
  readonly #identity = new GrowingArray(Uint32Array);
  readonly #question = new GrowingArray(Uint32Array);
  #end = 0;
  #pending: string[] = [];
  #pendingCharacters = 0;

  private constructor(private readonly path: string, private readonly stream: WriteStream, private readonly questionColumns: readonly string[]) {}

  /** @param questionColumns what the prompt shows of a row */
  static create(path: string, questionColumns: readonly string[]): RowSpool {
    return new RowSpool(path, createWriteStream(path), questionColumns);
  }

  async append(row: Row): Promise<void> {
    const line = `${JSON.stringify(row)}\n`;
    const texts = Object.values(row);
    this.#offsets.push(this.#end);
    this.#end += Buffer.byteLength(line);
    this.#empty.push(texts.every((text) => text.trim() !== '') ? 0 : 1);
    this.#characters.push(texts.reduce((sum, text) => sum + text.length, 0));
    pushDigest(this.#identity, JSON.stringify(texts));
    pushDigest(this.#question, questionOf(row, this.questionColumns));
    this.#pending.push(line);
    this.#pendingCharacters += line.length;
    if (this.#pendingCharacters > 1 << 20) await this.#flush();
  }

  /** Ends writing. Rows are numbered from 0 in the order in which they came. */
  async finish(): Promise<SpooledRows> {
    await this.#flush();
    this.stream.end();
    await once(this.stream, 'close');
    this.#offsets.push(this.#end);
    return new SpooledRows(await open(this.path), this.#offsets.values, {
      rows: this.#empty.length, empty: this.#empty.values, characters: this.#characters.values, identity: this.#identity.values, question: this.#question.values,
    });
  }

  async #flush(): Promise<void> {
    const text = this.#pending.join('');
    this.#pending = [];
    this.#pendingCharacters = 0;
    if (this.stream.errored) throw this.stream.errored;
    if (!this.stream.write(text)) await once(this.stream, 'drain');
  }
}

/** Rows that have been written, read back by their numbers. */
export class SpooledRows {
  constructor(private readonly file: FileHandle, private readonly offsets: Float64Array, readonly index: RowIndex) {}

  /** The lines of some rows, in the order given, in pieces; one window of them is in memory. */
  async *lines(rows: Uint32Array): AsyncGenerator<Buffer> {
    for (let start = 0; start < rows.length; start += window) {
      const wanted = rows.subarray(start, start + window);
      const lines = new Array<Buffer>(wanted.length);
      const places = Array.from(wanted, (_, i) => i).sort((a, b) => wanted[a] - wanted[b]);
      for (const i of places) lines[i] = this.#line(wanted[i]);
      yield Buffer.concat(lines);
    }
  }

  row(number: number): Row {
    return JSON.parse(this.#line(number).toString('utf8')) as Row;
  }

  close(): Promise<void> {
    return this.file.close();
  }

  #line(row: number): Buffer {
    const start = this.offsets[row];
    const line = Buffer.allocUnsafe(this.offsets[row + 1] - start);
    for (let done = 0; done < line.length; ) {
      const read = readSync(this.file.fd, line, done, line.length - done, start + done);
      if (read === 0) throw new Error(`row ${row}: expected ${line.length} bytes at ${start}, got ${done}`);
      done += read;
    }
    return line;
  }
}

function pushDigest(digests: GrowingArray<Uint32Array>, text: string): void {
  const bytes = hash('sha256', text, 'buffer');
  for (let i = 0; i < 16; i += 4) digests.push(bytes.readUInt32LE(i));
}
