import type { BinaryFile } from './binary-file.js';
import { FormatError } from './format-error.js';

/** Bytes of one element. https://github.com/huggingface/safetensors, README "Format". */
export const elementBytes = {
  F64: 8, I64: 8, U64: 8, F32: 4, I32: 4, U32: 4, F16: 2, BF16: 2, I16: 2, U16: 2, I8: 1, U8: 1, BOOL: 1,
} as const;
export type Dtype = keyof typeof elementBytes;

/** One tensor of a safetensors file. */
export interface SafetensorsEntry {
  dtype: Dtype;
  shape: number[];
  /** Absolute byte range in the file: start included, end excluded. */
  start: number;
  end: number;
}

export interface SafetensorsHeader {
  entries: Map<string, SafetensorsEntry>;
  metadata: Record<string, string>;
}

/** The limit of the reference implementation. */
const maxHeaderBytes = 100_000_000;

/** Elements of a shape; NaN unless every dimension is a whole number and the product is exact. */
export function countElements(shape: readonly unknown[]): number {
  let count = 1;
  for (const size of shape) {
    if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) return NaN;
    count *= size;
  }
  return Number.isSafeInteger(count) ? count : NaN;
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value);
const show = (value: unknown): string => JSON.stringify(value)?.slice(0, 80) ?? 'nothing';

/**
 * Reads the header only. Refuses what the reference implementation refuses: tensors that overlap, leave holes or do not fit
 * their shape, and a file that is longer or shorter than its tensors.
 */
export async function readSafetensorsHeader(file: BinaryFile): Promise<SafetensorsHeader> {
  const fail = (message: string) => new FormatError('bad_header', file.path, message);
  if (file.size < 10) throw new FormatError('truncated', file.path, `file: expected at least 10 bytes, got ${file.size}`);
  const prefix = Buffer.alloc(8);
  await file.fill(prefix, 0);
  const declared = prefix.readBigUInt64LE(0);
  if (declared > maxHeaderBytes) throw fail(`header: expected at most ${maxHeaderBytes} bytes, got ${declared}`);
  const length = Number(declared);
  if (length > file.size - 8) throw new FormatError('truncated', file.path, `file: expected at least ${8 + length} bytes, got ${file.size}`);
  const bytes = Buffer.alloc(length);
  await file.fill(bytes, 8);
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch {
    throw fail('header: expected JSON, got something else');
  }
  if (!isObject(json)) throw fail('header: expected a JSON object, got something else');
  const { __metadata__: metadata = {}, ...tensors } = json;
  if (!isObject(metadata) || Object.values(metadata).some((value) => typeof value !== 'string')) {
    throw fail('header: expected __metadata__ of strings, got something else');
  }

  const dataStart = 8 + length;
  const entries = Object.entries(tensors).map(([name, value]) => [name, parseEntry(value, dataStart, (message) => fail(`tensor ${name}: ${message}`))] as const);
  let position = dataStart;
  for (const [name, { start, end }] of [...entries].sort(([, a], [, b]) => a.start - b.start || a.end - b.end)) {
    if (start !== position) throw fail(`tensor ${name}: expected to start at byte ${position - dataStart} of the data, got ${start - dataStart}`);
    position = end;
  }
  if (position > file.size) throw new FormatError('truncated', file.path, `file: expected ${position} bytes, got ${file.size}`);
  if (position < file.size) throw fail(`file: expected ${position} bytes, got ${file.size}`);
  return { entries: new Map(entries), metadata: metadata as Record<string, string> };
}

function parseEntry(value: unknown, dataStart: number, fail: (message: string) => FormatError): SafetensorsEntry {
  if (!isObject(value)) throw fail(`expected an object, got ${show(value)}`);
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== 'string' || !Object.hasOwn(elementBytes, dtype)) {
    throw fail(`expected dtype to be one of ${Object.keys(elementBytes).join(', ')}, got ${show(dtype)}`);
  }
  const elements = Array.isArray(shape) ? countElements(shape) : NaN;
  if (Number.isNaN(elements)) throw fail(`expected shape to be whole numbers, got ${show(shape)}`);
  const bytes = elements * elementBytes[dtype as Dtype];
  if (!Array.isArray(offsets) || offsets.length !== 2 || offsets.some((offset) => !Number.isSafeInteger(offset) || offset < 0)) {
    throw fail(`expected data_offsets to be two whole numbers, got ${show(offsets)}`);
  }
  const [start, end] = offsets as [number, number];
  if (end - start !== bytes) throw fail(`expected ${bytes} bytes for ${dtype} [${(shape as number[]).join(',')}], got ${end - start}`);
  return { dtype: dtype as Dtype, shape: shape as number[], start: dataStart + start, end: dataStart + end };
}
