/** Writes GGUF files for tests, valid or not. https://github.com/ggml-org/ggml, docs/gguf.md. */

type Value = number | boolean | string | string[] | number[];

export interface GgufParts {
  magic?: string;
  version?: number;
  metadata?: [key: string, value: Value][];
  /** `dimensions` are in the file's order, innermost first. */
  tensors?: { name: string; dimensions: (number | bigint)[]; type: number; offset: number | bigint }[];
  data?: Uint8Array;
  tensorCount?: bigint;
  keyCount?: bigint;
}

const u32 = (value: number) => Buffer.from(new Uint32Array([value]).buffer);
const u64 = (value: number | bigint) => Buffer.from(new BigUint64Array([BigInt(value)]).buffer);
const string = (text: string) => Buffer.concat([u64(Buffer.byteLength(text)), Buffer.from(text)]);

function scalar(value: number | boolean | string): { type: number; bytes: Buffer } {
  if (typeof value === 'string') return { type: 8, bytes: string(value) };
  if (typeof value === 'boolean') return { type: 7, bytes: Buffer.from([value ? 1 : 0]) };
  if (Number.isInteger(value)) return { type: 4, bytes: u32(value) };
  return { type: 6, bytes: Buffer.from(new Float32Array([value]).buffer) };
}

function pair(key: string, value: Value): Buffer {
  if (!Array.isArray(value)) {
    const { type, bytes } = scalar(value);
    return Buffer.concat([string(key), u32(type), bytes]);
  }
  const entries = value.map(scalar);
  return Buffer.concat([string(key), u32(9), u32(entries[0]?.type ?? 4), u64(entries.length), ...entries.map(({ bytes }) => bytes)]);
}

export function ggufBytes({ magic = 'GGUF', version = 3, metadata = [], tensors = [], data = new Uint8Array(), tensorCount, keyCount }: GgufParts): Buffer {
  const head = Buffer.concat([
    Buffer.from(magic), u32(version), u64(tensorCount ?? tensors.length), u64(keyCount ?? metadata.length),
    ...metadata.map(([key, value]) => pair(key, value)),
    ...tensors.map(({ name, dimensions, type, offset }) => Buffer.concat([string(name), u32(dimensions.length), ...dimensions.map(u64), u32(type), u64(offset)])),
  ]);
  return Buffer.concat([head, Buffer.alloc((32 - (head.length % 32)) % 32), data]);
}
