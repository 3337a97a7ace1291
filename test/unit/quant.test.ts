import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { roundToBfloat16 } from '../../engine/quant/bfloat16.js';
import { dynamicLevels } from '../../engine/quant/dynamic-levels.js';
import { dequantizeInt8, quantizeInt8 } from '../../engine/quant/int8.js';
import { nestAbsmax } from '../../engine/quant/nested-absmax.js';
import { dequantizeNf4, nf4Levels, quantizeNf4 } from '../../engine/quant/nf4.js';

/** What bitsandbytes gives on a CPU; made by test/golden/quant.py. Bit patterns, so that equal means equal. */
interface Golden {
  levels: string;
  dynamicLevels: string;
  nf4: { name: string; values: string; codes: string; absmax: string; dequantized: string; nested: Record<'offset' | 'codes' | 'absmax' | 'dequantized', string> }[];
  blockwise: { name: string; values: string; codes: string; absmax: string }[];
  int8: { name: string; shape: [number, number]; values: string; codes: string; absmax: string; dequantized: string }[];
}
const golden = JSON.parse(readFileSync(new URL('../golden/quant.json', import.meta.url), 'utf8')) as Golden;

const floats = (hex: string): Float32Array => {
  const bytes = Buffer.from(hex, 'hex');
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatBE(4 * i));
};
const hexOf = (values: Float32Array): string => {
  const bytes = Buffer.alloc(values.length * 4);
  values.forEach((value, i) => bytes.writeFloatBE(value, 4 * i));
  return bytes.toString('hex');
};
const digest = (values: Float32Array): string => createHash('sha256').update(Buffer.from(hexOf(values), 'hex')).digest('hex');
const bytesHex = (bytes: Uint8Array | Int8Array): string => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('hex');
const named = <T extends { name: string }>(cases: T[]): [string, T][] => cases.map((entry) => [entry.name, entry]);

describe('levels', () => {
  it('of NF4 are those of bitsandbytes', () => expect(hexOf(nf4Levels)).toBe(golden.levels));
  it('of the dynamic 8-bit type are those of bitsandbytes', () => expect(hexOf(dynamicLevels)).toBe(golden.dynamicLevels));
});

describe('NF4', () => {
  it.each(named(golden.nf4))('gives the codes, scales and values of bitsandbytes: %s', (_name, { values, codes, absmax, dequantized }) => {
    const quantized = quantizeNf4(floats(values), { doubleQuant: false });
    expect(bytesHex(quantized.codes)).toBe(codes);
    expect(hexOf(quantized.absmax as Float32Array)).toBe(absmax);
    expect(digest(dequantizeNf4(quantized))).toBe(dequantized);
  });

  it.each(named(golden.nf4))('gives the nested scales of bitsandbytes for its mean: %s', (_name, { values, nested }) => {
    const quantized = quantizeNf4(floats(values), { doubleQuant: false });
    const absmax = nestAbsmax(quantized.absmax as Float32Array, floats(nested.offset)[0]);
    expect(bytesHex(absmax.codes)).toBe(nested.codes);
    expect(hexOf(absmax.absmax)).toBe(nested.absmax);
    expect(digest(dequantizeNf4({ ...quantized, absmax }))).toBe(nested.dequantized);
  });

  it.each(named(golden.nf4))('takes the mean of the scales to the last bit or the one beside it: %s', (_name, { values, nested }) => {
    const { absmax } = quantizeNf4(floats(values), { doubleQuant: true });
    if (absmax instanceof Float32Array) throw new Error('expected nested scales');
    const [expected] = floats(nested.offset);
    expect(Math.abs(absmax.offset - expected)).toBeLessThanOrEqual(Math.abs(expected) * 2 ** -23);
  });
});

describe('dynamic 8-bit', () => {
  it.each(named(golden.blockwise))('gives the codes and scales of bitsandbytes: %s', (_name, { values, codes, absmax }) => {
    const nested = nestAbsmax(floats(values), 0);
    expect(bytesHex(nested.codes)).toBe(codes);
    expect(hexOf(nested.absmax)).toBe(absmax);
  });
});

describe('int8', () => {
  it.each(named(golden.int8))('gives the codes, scales and values of bitsandbytes: %s', (_name, { shape, values, codes, absmax, dequantized }) => {
    const matrix = quantizeInt8(floats(values), shape[0], shape[1]);
    expect(bytesHex(matrix.codes)).toBe(codes);
    expect(hexOf(matrix.absmax)).toBe(absmax);
    expect(digest(dequantizeInt8(matrix))).toBe(dequantized);
  });
});

describe('bfloat16', () => {
  it.each([
    [1, 1],
    [1 + 2 ** -8, 1], // halfway: to even, down
    [1 + 3 * 2 ** -8, 1 + 2 ** -6], // halfway: to even, up
    [-(1 + 2 ** -8 + 2 ** -20), -(1 + 2 ** -7)],
    [3.4028234663852886e38, Infinity],
    [-Infinity, -Infinity],
    [NaN, NaN],
    [0, 0],
  ])('rounds %d to %d', (value, expected) => expect(roundToBfloat16(Float32Array.of(value))[0]).toBe(expected));
});
