/** GGUF versions 2 and 3. https://github.com/ggml-org/ggml, docs/gguf.md. */
import type { BinaryFile } from './binary-file.js';
import { FormatError } from './format-error.js';
import { ggmlTypes } from './ggml-blocks.js';

export type GgufScalar = number | bigint | boolean | string;
/** A 64-bit integer is a number when it is exact as one, else a bigint. */
export type GgufValue = GgufScalar | GgufScalar[];

export interface GgufTensor {
  /** Innermost axis last, as everywhere here; the file has it first. */
  shape: number[];
  /** Key of `ggmlTypes`. */
  type: number;
  /** Absolute byte range in the file: start included, end excluded. */
  start: number;
  end: number;
}

export interface GgufHeader {
  version: number;
  metadata: Map<string, GgufValue>;
  tensors: Map<string, GgufTensor>;
}

/** A vocabulary of a million tokens with its merges takes about 50 MB. */
const maxHeaderBytes = 256 * 1024 * 1024;
const firstReadBytes = 4 * 1024 * 1024;
/** GGML's own limits. */
const maxDimensions = 4;
const maxNameBytes = 64;

/** The header goes on behind the bytes at hand. */
class NeedMoreBytes extends Error {}

/**
 * Reads metadata and the tensor table; tensor bytes stay on disk.
 * @param skip keys whose values are not wanted: they are stepped over and left out. A vocabulary takes most of the time.
 */
export async function readGgufHeader(file: BinaryFile, skip: (key: string) => boolean = () => false): Promise<GgufHeader> {
  const longest = Math.min(file.size, maxHeaderBytes);
  for (let length = Math.min(longest, firstReadBytes); ; length = Math.min(longest, length * 4)) {
    const bytes = Buffer.alloc(length);
    await file.fill(bytes, 0);
    try {
      return parse(bytes, file, skip);
    } catch (error) {
      if (!(error instanceof NeedMoreBytes)) throw error;
      if (length === file.size) throw new FormatError('truncated', file.path, `file: expected more than ${file.size} bytes for its header, got ${file.size}`);
      if (length === longest) throw new FormatError('bad_header', file.path, `header: expected at most ${maxHeaderBytes} bytes, got more`);
    }
  }
}

function parse(bytes: Buffer, file: BinaryFile, skip: (key: string) => boolean): GgufHeader {
  const fail = (message: string) => new FormatError('bad_header', file.path, message);
  const cursor = new Cursor(bytes, fail);
  const magic = cursor.take(4);
  if (magic.toString('latin1') !== 'GGUF') throw new FormatError('wrong_magic', file.path, `magic: expected GGUF, got ${JSON.stringify(magic.toString('latin1'))}`);
  const version = cursor.u32();
  if (version !== 2 && version !== 3) {
    const what = version === 0x02000000 || version === 0x03000000 ? 'a big-endian file' : String(version);
    throw new FormatError('unsupported', file.path, `version: expected 2 or 3, got ${what}`);
  }
  const tensorCount = cursor.count('tensor count');
  const keyCount = cursor.count('metadata count');

  const metadata = new Map<string, GgufValue>();
  const seen = new Set<string>();
  for (let i = 0; i < keyCount; i++) {
    const key = cursor.string();
    if (seen.has(key)) throw fail(`metadata ${key}: expected once, got twice`);
    seen.add(key);
    const type = cursor.u32();
    if (skip(key)) cursor.skipValue(type, key);
    else metadata.set(key, cursor.value(type, key));
  }

  const alignment = metadata.get('general.alignment') ?? 32;
  if (typeof alignment !== 'number' || alignment < 1 || alignment > 65536 || (alignment & (alignment - 1)) !== 0) {
    throw fail(`metadata general.alignment: expected a power of two up to 65536, got ${String(alignment)}`);
  }
  const table: { name: string; type: number; shape: number[]; offset: number; bytes: number }[] = [];
  for (let i = 0; i < tensorCount; i++) table.push(readTensorInfo(cursor, alignment, fail, file.path));

  const dataStart = Math.ceil(cursor.position / alignment) * alignment;
  const tensors = new Map<string, GgufTensor>();
  for (const { name, type, shape, offset, bytes: size } of table) {
    if (tensors.has(name)) throw fail(`tensor ${name}: expected once, got twice`);
    tensors.set(name, { shape, type, start: dataStart + offset, end: dataStart + offset + size });
  }
  let position = dataStart;
  for (const [name, { start, end }] of [...tensors].sort(([, a], [, b]) => a.start - b.start || a.end - b.end)) {
    if (start < position) throw fail(`tensor ${name}: expected bytes of its own, got some of another tensor`);
    position = end;
  }
  if (tensors.size > 0 && position > file.size) throw new FormatError('truncated', file.path, `file: expected ${position} bytes, got ${file.size}`);
  return { version, metadata, tensors };
}

function readTensorInfo(cursor: Cursor, alignment: number, fail: (message: string) => FormatError, path: string) {
  const name = cursor.string();
  if (Buffer.byteLength(name) > maxNameBytes) throw fail(`tensor name: expected at most ${maxNameBytes} bytes, got ${Buffer.byteLength(name)}`);
  const dimensions = cursor.u32();
  if (dimensions < 1 || dimensions > maxDimensions) throw fail(`tensor ${name}: expected 1 to ${maxDimensions} dimensions, got ${dimensions}`);
  const shape: number[] = [];
  for (let d = 0; d < dimensions; d++) shape.unshift(cursor.count(`tensor ${name}: dimension`));
  const type = cursor.u32();
  const ggml = ggmlTypes.get(type);
  if (!ggml) {
    const known = [...ggmlTypes.values()].map((entry) => entry.name).join(', ');
    throw new FormatError('unsupported', path, `tensor ${name}: expected one of ${known}, got GGML type ${type}`);
  }
  const offset = cursor.count(`tensor ${name}: offset`);
  if (offset % alignment !== 0) throw fail(`tensor ${name}: expected an offset divisible by ${alignment}, got ${offset}`);
  const columns = shape[shape.length - 1];
  if (columns % ggml.values !== 0) throw fail(`tensor ${name}: expected rows of a multiple of ${ggml.values} values for ${ggml.name}, got ${columns}`);
  const bytes = shape.reduce((product, size) => product * size, 1) / ggml.values * ggml.bytes;
  if (!Number.isSafeInteger(offset + bytes)) throw fail(`tensor ${name}: expected a size below 2^53, got shape [${shape.join(',')}]`);
  return { name, type, shape, offset, bytes };
}

/** Sizes of the scalar types by their number; 8 is a string, 9 an array. */
const scalarBytes: Record<number, number> = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 };
const stringType = 8;
const arrayType = 9;

class Cursor {
  position = 0;

  constructor(
    private readonly bytes: Buffer,
    private readonly fail: (message: string) => FormatError,
  ) {}

  private advance(length: number): number {
    const start = this.position;
    if (length > this.bytes.length - start) throw new NeedMoreBytes();
    this.position += length;
    return start;
  }

  take(length: number): Buffer {
    const start = this.advance(length);
    return this.bytes.subarray(start, start + length);
  }

  u32(): number {
    return this.bytes.readUInt32LE(this.advance(4));
  }

  /** An unsigned 64-bit integer that has to be exact as a number. */
  count(what: string): number {
    const value = this.bytes.readBigUInt64LE(this.advance(8));
    if (value > Number.MAX_SAFE_INTEGER) throw this.fail(`${what}: expected below 2^53, got ${value}`);
    return Number(value);
  }

  private stringBytes(): number {
    const length = this.count('string length');
    if (length > maxHeaderBytes) throw this.fail(`string: expected at most ${maxHeaderBytes} bytes, got ${length}`);
    return length;
  }

  string(): string {
    const length = this.stringBytes();
    const start = this.advance(length);
    return this.bytes.toString('utf8', start, start + length);
  }

  value(type: number, key: string): GgufValue {
    if (type !== arrayType) return this.scalar(type, key);
    const { element, count } = this.arrayHead(key);
    const values: GgufScalar[] = [];
    for (let i = 0; i < count; i++) values.push(this.scalar(element, key));
    return values;
  }

  skipValue(type: number, key: string): void {
    const { element, count } = type === arrayType ? this.arrayHead(key) : { element: type, count: 1 };
    if (element === stringType) for (let i = 0; i < count; i++) this.advance(this.stringBytes());
    else this.advance(count * this.scalarSize(element, key));
  }

  private arrayHead(key: string): { element: number; count: number } {
    const element = this.u32();
    const count = this.count(`metadata ${key}: length`);
    if (element === arrayType) throw this.fail(`metadata ${key}: expected an array of scalars or strings, got an array of arrays`);
    // Every element takes a byte at least (a string 8): a count that the file cannot hold ends here, not in a long loop.
    const least = count * (element === stringType ? 8 : this.scalarSize(element, key));
    if (least > maxHeaderBytes) throw this.fail(`metadata ${key}: expected at most ${maxHeaderBytes} bytes, got ${least}`);
    if (least > this.bytes.length - this.position) throw new NeedMoreBytes();
    return { element, count };
  }

  private scalarSize(type: number, key: string): number {
    const size = scalarBytes[type];
    if (size === undefined) throw this.fail(`metadata ${key}: expected a value type from 0 to 12, got ${type}`);
    return size;
  }

  private scalar(type: number, key: string): GgufScalar {
    if (type === stringType) return this.string();
    const at = this.advance(this.scalarSize(type, key));
    const { bytes } = this;
    switch (type) {
      case 0: return bytes.readUInt8(at);
      case 1: return bytes.readInt8(at);
      case 2: return bytes.readUInt16LE(at);
      case 3: return bytes.readInt16LE(at);
      case 4: return bytes.readUInt32LE(at);
      case 5: return bytes.readInt32LE(at);
      case 6: return bytes.readFloatLE(at);
      case 7: return bytes.readUInt8(at) !== 0;
      case 10: return exact(bytes.readBigUInt64LE(at));
      case 11: return exact(bytes.readBigInt64LE(at));
      default: return bytes.readDoubleLE(at);
    }
  }
}

const exact = (value: bigint): number | bigint => (Number.isSafeInteger(Number(value)) ? Number(value) : value);
