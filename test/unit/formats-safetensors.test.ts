import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { EngineError } from '../../engine/errors.js';
import { readSafetensors, SafetensorsFile, streamSafetensors, writeSafetensors, type SafetensorsTensor } from '../../engine/formats/safetensors.js';
import { temporaryDirectory } from '../kit/temporary.js';

const directory = temporaryDirectory();
const at = (name: string) => join(directory, name);

/** A file with this header (text or JSON) and data. */
function file(name: string, header: unknown, data = Buffer.alloc(0), declared?: bigint): string {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(declared ?? BigInt(json.length));
  writeFileSync(at(name), Buffer.concat([length, json, data]));
  return at(name);
}
const f32 = (shape: unknown, offsets: unknown) => ({ dtype: 'F32', shape, data_offsets: offsets });

const everyType = new Map<string, SafetensorsTensor>([
  ['f32', { dtype: 'F32', shape: [2, 2], data: new Float32Array([1, -2.5, NaN, 4]) }],
  ['f64', { dtype: 'F64', shape: [1], data: new Float64Array([Math.PI]) }],
  ['f16', { dtype: 'F16', shape: [1], data: new Uint16Array([0x3c00]) }],
  ['bf16', { dtype: 'BF16', shape: [3], data: new Uint16Array([1, 2, 3]) }],
  ['i8', { dtype: 'I8', shape: [1], data: new Int8Array([-1]) }],
  ['u8', { dtype: 'U8', shape: [3], data: new Uint8Array([1, 2, 255]) }],
  ['bool', { dtype: 'BOOL', shape: [2], data: new Uint8Array([0, 1]) }],
  ['i16', { dtype: 'I16', shape: [1], data: new Int16Array([-300]) }],
  ['u16', { dtype: 'U16', shape: [1], data: new Uint16Array([65535]) }],
  ['i32', { dtype: 'I32', shape: [1, 2], data: new Int32Array([-7, 7]) }],
  ['u32', { dtype: 'U32', shape: [1], data: new Uint32Array([4294967295]) }],
  ['i64', { dtype: 'I64', shape: [1], data: new BigInt64Array([-(2n ** 60n)]) }],
  ['u64', { dtype: 'U64', shape: [1], data: new BigUint64Array([2n ** 63n]) }],
  ['scalar', { dtype: 'F32', shape: [], data: new Float32Array([9]) }],
  ['empty ü', { dtype: 'F32', shape: [0, 4], data: new Float32Array(0) }],
]);

describe('writeSafetensors', () => {
  it('gives every type back as it was', async () => {
    await writeSafetensors(at('all.safetensors'), everyType, { note: 'ä' });
    const read = await readSafetensors(at('all.safetensors'));
    for (const [name, tensor] of everyType) expect(read.get(name), name).toEqual(tensor);
    expect(read.size).toBe(everyType.size);
  });

  it('aligns the data to 8 bytes and gives the same bytes whatever the order', async () => {
    await writeSafetensors(at('a.safetensors'), everyType, { x: '1', é: '2' });
    await writeSafetensors(at('b.safetensors'), new Map([...everyType].reverse()), { é: '2', x: '1' });
    const bytes = readFileSync(at('a.safetensors'));
    expect(bytes.readBigUInt64LE() % 8n).toBe(0n);
    expect(bytes.equals(readFileSync(at('b.safetensors')))).toBe(true);
  });

  it('leaves the old file, and nothing else, when a tensor cannot be had', async () => {
    await writeSafetensors(at('kept.safetensors'), everyType);
    const before = readFileSync(at('kept.safetensors'));
    const failing = streamSafetensors(at('kept.safetensors'), [{ name: 'x', dtype: 'F32', shape: [1] }], async () => Promise.reject(new Error('no x')));
    await expect(failing).rejects.toThrow('no x');
    expect(readFileSync(at('kept.safetensors')).equals(before)).toBe(true);
    expect(readdirSync(directory).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  });

  it('refuses data that does not fit the shape', async () => {
    await expect(writeSafetensors(at('wrong.safetensors'), new Map([['x', { dtype: 'F32', shape: [3], data: new Float32Array(2) }]]))).rejects.toThrow(
      'tensor x: expected 12 bytes for F32 [3], got 8',
    );
  });

  it('holds one tensor at a time when streaming', async () => {
    const calls: string[] = [];
    await streamSafetensors(
      at('stream.safetensors'),
      ['b', 'a'].map((name) => ({ name, dtype: 'F32' as const, shape: [2] })),
      async (name) => (calls.push(name), new Float32Array([1, 2])),
    );
    expect(calls).toEqual(['a', 'b']);
    expect((await readSafetensors(at('stream.safetensors'))).get('b')!.data).toEqual(new Float32Array([1, 2]));
  });
});

describe('a hostile safetensors file', () => {
  const data = Buffer.alloc(16);
  const cases: [string, () => string, string, string][] = [
    ['nothing in it', () => (writeFileSync(at('h0'), ''), at('h0')), 'truncated', 'h0: file: expected at least 10 bytes, got 0'],
    ['a header longer than the file', () => file('h1', '{}', data, 1000n), 'truncated', 'h1: file: expected at least 1008 bytes, got 26'],
    ['a huge header length', () => file('h2', '{}', data, 2n ** 63n), 'bad_header', 'expected at most 100000000 bytes, got 9223372036854775808'],
    ['a header that is not JSON', () => file('h3', '{"a":'), 'bad_header', 'h3: header: expected JSON, got something else'],
    ['a header that is a list', () => file('h4', []), 'bad_header', 'expected a JSON object'],
    ['truncated data', () => file('h5', { a: f32([8], [0, 32]) }, data), 'truncated', 'h5: file: expected 95 bytes, got 79'],
    ['bytes that belong to no tensor', () => file('h6', { a: f32([2], [0, 8]) }, data), 'bad_header', 'h6: file: expected 70 bytes, got 78'],
    ['overlapping tensors', () => file('h7', { a: f32([2], [0, 8]), b: f32([3], [4, 16]) }, data), 'bad_header', 'tensor b: expected to start at byte 8 of the data, got 4'],
    ['a hole', () => file('h8', { a: f32([1], [0, 4]), b: f32([2], [8, 16]) }, data), 'bad_header', 'tensor b: expected to start at byte 4 of the data, got 8'],
    ['a shape that does not fit its bytes', () => file('h9', { a: f32([3], [0, 16]) }, data), 'bad_header', 'tensor a: expected 12 bytes for F32 [3], got 16'],
    ['a shape whose product overflows', () => file('h10', { a: f32([2 ** 40, 2 ** 40], [0, 16]) }, data), 'bad_header', 'expected shape to be whole numbers'],
    ['a negative dimension', () => file('h11', { a: f32([-4], [0, 16]) }, data), 'bad_header', 'expected shape to be whole numbers, got [-4]'],
    ['offsets in the wrong order', () => file('h12', { a: f32([4], [16, 0]) }, data), 'bad_header', 'expected 16 bytes for F32 [4], got -16'],
    ['an unknown type', () => file('h13', { a: { dtype: 'F8', shape: [16], data_offsets: [0, 16] } }, data), 'bad_header', 'got "F8"'],
    ['a type from the prototype', () => file('h14', { a: { dtype: 'toString', shape: [16], data_offsets: [0, 16] } }, data), 'bad_header', 'got "toString"'],
    ['metadata that is not text', () => file('h15', { __metadata__: { a: 1 } }), 'bad_header', 'expected __metadata__ of strings'],
    ['no such file', () => at('none'), 'missing_file', 'none: file: expected to exist, got none'],
    ['a directory in its place', () => directory, 'missing_file', 'expected a regular file'],
  ];
  it.each(cases)('with %s is refused', async (_what, make, code, message) => {
    const error = await SafetensorsFile.open(make()).then(() => undefined, (reason: unknown) => reason);
    expect(error).toBeInstanceOf(EngineError);
    expect(error).toMatchObject({ failure: 'invalidInput', code });
    expect((error as Error).message).toContain(message);
  });

  it('that was cut or flipped anywhere is read or refused, never more', async () => {
    await writeSafetensors(at('good.safetensors'), everyType, { a: 'b' });
    const good = readFileSync(at('good.safetensors'));
    let refused = 0;
    for (let i = 0; i < 300; i++) {
      const bytes = Buffer.from(i % 2 ? good : good.subarray(0, (i * 7919) % good.length));
      if (i % 2) bytes[(i * 104729) % bytes.length] ^= 1 << i % 8;
      writeFileSync(at('bad.safetensors'), bytes);
      const error = await readSafetensors(at('bad.safetensors')).then(() => undefined, (reason: unknown) => reason);
      if (error === undefined) continue;
      expect(error).toBeInstanceOf(EngineError);
      refused++;
    }
    expect(refused).toBeGreaterThan(150);
  });
});
