/** GGUF version 3, little-endian. https://github.com/ggml-org/ggml, docs/gguf.md. */
import { EngineError } from '../errors.js';
import { writeAtomically } from './binary-file.js';
import { quantizers, type QuantizedType } from './ggml-quantize.js';

/** A metadata value with the type it is stored in. */
export type GgufField =
  | { type: 'u32'; value: number }
  | { type: 'f32'; value: number }
  | { type: 'bool'; value: boolean }
  | { type: 'string'; value: string }
  | { type: 'strings'; value: readonly string[] }
  | { type: 'i32s'; value: readonly number[] }
  | { type: 'f32s'; value: readonly number[] };

export const u32 = (value: number): GgufField => ({ type: 'u32', value });
export const f32 = (value: number): GgufField => ({ type: 'f32', value });
export const text = (value: string): GgufField => ({ type: 'string', value });
export const bool = (value: boolean): GgufField => ({ type: 'bool', value });

export interface GgufTensorPlan {
  /** The name in the file. */
  name: string;
  /** Innermost axis last. Rows are whole blocks of `type`. */
  shape: readonly number[];
  type: QuantizedType;
}

const alignment = 32;
const align = (position: number): number => Math.ceil(position / alignment) * alignment;

/**
 * Writes a file whole or not at all, one tensor in memory at a time.
 * @param read the values of a tensor by its name in the file, row-major; called once for each, in order
 */
export async function writeGguf(
  path: string, metadata: ReadonlyMap<string, GgufField>, plan: readonly GgufTensorPlan[], read: (tensor: GgufTensorPlan) => Promise<Float32Array>,
): Promise<void> {
  const sizes = plan.map(bytesOf);
  let offset = 0;
  const infos = plan.map(({ name, shape, type }, i) => {
    const info = Buffer.concat([string(name), uint32(shape.length), ...[...shape].reverse().map(uint64), uint32(quantizers[type].type), uint64(offset)]);
    offset = align(offset + sizes[i]);
    return info;
  });
  const head = Buffer.concat([
    Buffer.from('GGUF'), uint32(3), uint64(plan.length), uint64(metadata.size), ...[...metadata].map(([key, field]) => Buffer.concat([string(key), encode(field)])), ...infos,
  ]);

  await writeAtomically(path, async (append) => {
    await append(Buffer.concat([head, Buffer.alloc(align(head.length) - head.length)]));
    for (const [i, tensor] of plan.entries()) {
      const bytes = quantizers[tensor.type].encode(await read(tensor));
      if (bytes.length !== sizes[i]) throw new EngineError('internal', 'bad_tensor', `tensor ${tensor.name}: expected ${sizes[i]} bytes, got ${bytes.length}`);
      await append(bytes);
      await append(new Uint8Array(align(bytes.length) - bytes.length));
    }
  });
}

function bytesOf({ name, shape, type }: GgufTensorPlan): number {
  const { values, bytes } = quantizers[type];
  const columns = shape[shape.length - 1];
  if (columns % values !== 0) throw new EngineError('internal', 'bad_tensor', `tensor ${name}: expected rows of a multiple of ${values} values for ${type}, got ${columns}`);
  return (shape.reduce((product, size) => product * size, 1) / values) * bytes;
}

const uint32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};
const uint64 = (value: number): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
};
const string = (value: string): Buffer => Buffer.concat([uint64(Buffer.byteLength(value)), Buffer.from(value)]);
const list = (type: number, count: number, values: Buffer): Buffer => Buffer.concat([uint32(9), uint32(type), uint64(count), values]);
const bytesIn = ({ buffer, byteOffset, byteLength }: ArrayBufferView): Buffer => Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength);

/** Type and value; the numbers are those of enum gguf_type. */
function encode(field: GgufField): Buffer {
  switch (field.type) {
    case 'u32':
      return Buffer.concat([uint32(4), uint32(field.value)]);
    case 'f32':
      return Buffer.concat([uint32(6), bytesIn(Float32Array.of(field.value))]);
    case 'bool':
      return Buffer.concat([uint32(7), Buffer.from([Number(field.value)])]);
    case 'string':
      return Buffer.concat([uint32(8), string(field.value)]);
    case 'strings':
      return list(8, field.value.length, Buffer.concat(field.value.map(string)));
    case 'i32s':
      return list(5, field.value.length, bytesIn(Int32Array.from(field.value)));
    case 'f32s':
      return list(6, field.value.length, bytesIn(Float32Array.from(field.value)));
  }
}
