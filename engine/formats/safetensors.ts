/**
 * safetensors: 8 bytes of little-endian header length, a JSON header, then the tensors.
 * https://github.com/huggingface/safetensors, README "Format".
 */
import { BinaryFile, writeAtomically } from './binary-file.js';
import { EngineError } from '../errors.js';
import { notFinite } from './finite.js';
import { FormatError } from './format-error.js';
import { bf16ToF32, f16ToF32 } from './half-floats.js';
import { countElements, elementBytes, readSafetensorsHeader, type Dtype, type SafetensorsEntry } from './safetensors-header.js';
import type { StoredTensor } from './weight-source.js';

/** Values of one tensor in row-major order. F16 and BF16 are bit patterns; BOOL is a byte each. */
export type SafetensorsTensor =
  | { dtype: 'F32'; shape: number[]; data: Float32Array }
  | { dtype: 'F64'; shape: number[]; data: Float64Array }
  | { dtype: 'F16' | 'BF16' | 'U16'; shape: number[]; data: Uint16Array }
  | { dtype: 'I16'; shape: number[]; data: Int16Array }
  | { dtype: 'I32'; shape: number[]; data: Int32Array }
  | { dtype: 'U32'; shape: number[]; data: Uint32Array }
  | { dtype: 'I64'; shape: number[]; data: BigInt64Array }
  | { dtype: 'U64'; shape: number[]; data: BigUint64Array }
  | { dtype: 'I8'; shape: number[]; data: Int8Array }
  | { dtype: 'U8' | 'BOOL'; shape: number[]; data: Uint8Array };

const arrays = {
  F32: Float32Array, F64: Float64Array, F16: Uint16Array, BF16: Uint16Array, U16: Uint16Array, I16: Int16Array, I32: Int32Array,
  U32: Uint32Array, I64: BigInt64Array, U64: BigUint64Array, I8: Int8Array, U8: Uint8Array, BOOL: Uint8Array,
} as const;

/** A safetensors file with its header read; tensor bytes stay on disk until asked for. */
export class SafetensorsFile {
  private constructor(
    private readonly file: BinaryFile,
    readonly entries: ReadonlyMap<string, SafetensorsEntry>,
    readonly metadata: Readonly<Record<string, string>>,
  ) {}

  static async open(path: string): Promise<SafetensorsFile> {
    const file = await BinaryFile.open(path);
    try {
      const { entries, metadata } = await readSafetensorsHeader(file);
      return new SafetensorsFile(file, entries, metadata);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  get path(): string {
    return this.file.path;
  }

  async read(name: string): Promise<SafetensorsTensor> {
    const { dtype, shape, start, end } = this.entry(name);
    const buffer = new ArrayBuffer(end - start);
    await this.file.fill(new Uint8Array(buffer), start);
    return { dtype, shape: [...shape], data: new arrays[dtype](buffer) } as SafetensorsTensor;
  }

  /** Reads an F32, F16 or BF16 tensor as float32. */
  async readFloats(name: string): Promise<Float32Array> {
    const { dtype } = this.entry(name);
    if (dtype !== 'F32' && dtype !== 'F16' && dtype !== 'BF16') {
      throw new FormatError('unsupported', this.path, `tensor ${name}: expected F32, F16 or BF16, got ${dtype}`);
    }
    const tensor = await this.read(name);
    if (tensor.dtype === 'F32') return tensor.data;
    return tensor.dtype === 'F16' ? f16ToF32(tensor.data as Uint16Array) : bf16ToF32(tensor.data as Uint16Array);
  }

  /** An F32, F16 or BF16 tensor as it lies in the file; undefined for other dtypes. */
  stored(name: string): StoredTensor | undefined {
    const { dtype, start, end, shape } = this.entry(name);
    const plain = { F32: 'f32', F16: 'f16', BF16: 'bf16' } as const;
    if (!(dtype in plain)) return undefined;
    return {
      dtype: plain[dtype as keyof typeof plain],
      count: countElements(shape),
      fill: (target, position) => {
        if (position + target.byteLength > end - start) throw new RangeError(`tensor ${name}: expected at most ${end - start} bytes, got ${position + target.byteLength}`);
        return this.file.fill(target, start + position);
      },
      notFinite: (value, index) => notFinite(this.path, name, value, index),
    };
  }

  close(): Promise<void> {
    return this.file.close();
  }

  private entry(name: string): SafetensorsEntry {
    const entry = this.entries.get(name);
    if (!entry) throw new FormatError('missing_tensor', this.path, `tensor ${name}: expected to exist, got none`);
    return entry;
  }
}

/** Reads every tensor into memory, in the header's order. */
export async function readSafetensors(path: string): Promise<Map<string, SafetensorsTensor>> {
  const file = await SafetensorsFile.open(path);
  try {
    const tensors = new Map<string, SafetensorsTensor>();
    for (const name of file.entries.keys()) tensors.set(name, await file.read(name));
    return tensors;
  } finally {
    await file.close();
  }
}

/** Writes a file whole or not at all. The same tensors and metadata give the same bytes, in whatever order they come. */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, SafetensorsTensor>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  await streamSafetensors(
    path,
    [...tensors].map(([name, { dtype, shape }]) => ({ name, dtype, shape })),
    async (name) => tensors.get(name)!.data,
    metadata,
  );
}

export interface TensorPlan {
  name: string;
  dtype: Dtype;
  shape: readonly number[];
}

/**
 * As `writeSafetensors`, for tensors that do not fit in memory together: `read` is called once for each, and one is held
 * at a time. They are written widest element first, then by name, as the reference implementation does, so every tensor
 * is aligned to its element.
 */
export async function streamSafetensors(
  path: string,
  plan: readonly TensorPlan[],
  read: (name: string) => Promise<ArrayBufferView>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const ordered = [...plan].sort((a, b) => elementBytes[b.dtype] - elementBytes[a.dtype] || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  const header: Record<string, unknown> = Object.create(null);
  const keys = Object.keys(metadata).sort();
  if (keys.length > 0) header.__metadata__ = Object.fromEntries(keys.map((key) => [key, metadata[key]]));
  let position = 0;
  for (const { name, dtype, shape } of ordered) {
    const bytes = countElements(shape) * elementBytes[dtype];
    if (name === '__metadata__' || name in header) throw writeError(name, `expected a name of its own, got one that is taken`);
    header[name] = { dtype, shape, data_offsets: [position, (position += bytes)] };
  }
  const json = Buffer.from(JSON.stringify(header));
  const padding = (8 - (json.length % 8)) % 8;
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(json.length + padding));

  await writeAtomically(path, async (append) => {
    await append(Buffer.concat([prefix, json, Buffer.alloc(padding, ' ')]));
    for (const { name, dtype, shape } of ordered) {
      const { buffer, byteOffset, byteLength } = await read(name);
      const expected = countElements(shape) * elementBytes[dtype];
      if (byteLength !== expected) throw writeError(name, `expected ${expected} bytes for ${dtype} [${shape.join(',')}], got ${byteLength}`);
      await append(new Uint8Array(buffer, byteOffset, byteLength));
    }
  });
}

const writeError = (name: string, message: string) => new EngineError('internal', 'bad_tensor', `tensor ${name}: ${message}`);
