/**
 * GGML's block formats to float32. Layouts: https://github.com/ggml-org/ggml, src/ggml-common.h; a "super-block" of the K
 * formats holds 256 values. d and m are IEEE half floats, little-endian; codes are packed low nibble first.
 */
import { bf16ToF32, f16Table, f16ToF32 } from './half-floats.js';

interface GgmlType {
  name: string;
  /** Values in a block. */
  values: number;
  /** Bytes of a block. */
  bytes: number;
  decode(bytes: Uint8Array, out: Float32Array): void;
}

/** By the number that GGUF files use (enum ggml_type). */
export const ggmlTypes: ReadonlyMap<number, GgmlType> = new Map<number, GgmlType>([
  [0, { name: 'F32', values: 1, bytes: 4, decode: (bytes, out) => new Uint8Array(out.buffer, out.byteOffset, bytes.length).set(bytes) }],
  [1, { name: 'F16', values: 1, bytes: 2, decode: (bytes, out) => out.set(f16ToF32(halves(bytes))) }],
  [2, { name: 'Q4_0', values: 32, bytes: 18, decode: q4_0 }],
  [3, { name: 'Q4_1', values: 32, bytes: 20, decode: q4_1 }],
  [6, { name: 'Q5_0', values: 32, bytes: 22, decode: q5_0 }],
  [7, { name: 'Q5_1', values: 32, bytes: 24, decode: q5_1 }],
  [8, { name: 'Q8_0', values: 32, bytes: 34, decode: q8_0 }],
  [10, { name: 'Q2_K', values: 256, bytes: 84, decode: q2_K }],
  [11, { name: 'Q3_K', values: 256, bytes: 110, decode: q3_K }],
  [12, { name: 'Q4_K', values: 256, bytes: 144, decode: q4_K }],
  [13, { name: 'Q5_K', values: 256, bytes: 176, decode: q5_K }],
  [14, { name: 'Q6_K', values: 256, bytes: 210, decode: q6_K }],
  [30, { name: 'BF16', values: 1, bytes: 2, decode: (bytes, out) => out.set(bf16ToF32(halves(bytes))) }],
]);

const halves = (bytes: Uint8Array) => new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);

/** d, 16 bytes of codes: d · (code - 8). Byte j holds values j and j + 16. */
function q4_0(bytes: Uint8Array, out: Float32Array): void {
  const half = f16Table();
  for (let at = 0, o = 0; at < bytes.length; at += 18, o += 32) {
    const d = half[bytes[at] | (bytes[at + 1] << 8)];
    for (let j = 0; j < 16; j++) {
      const code = bytes[at + 2 + j];
      out[o + j] = d * ((code & 15) - 8);
      out[o + j + 16] = d * ((code >> 4) - 8);
    }
  }
}

/** d, m, 16 bytes of codes: d · code + m. */
function q4_1(bytes: Uint8Array, out: Float32Array): void {
  const half = f16Table();
  for (let at = 0, o = 0; at < bytes.length; at += 20, o += 32) {
    const d = half[bytes[at] | (bytes[at + 1] << 8)];
    const m = half[bytes[at + 2] | (bytes[at + 3] << 8)];
    for (let j = 0; j < 16; j++) {
      const code = bytes[at + 4 + j];
      out[o + j] = d * (code & 15) + m;
      out[o + j + 16] = d * (code >> 4) + m;
    }
  }
}

/** d, 4 bytes of fifth bits, 16 bytes of codes: d · (code - 16). Fifth bit i belongs to value i. */
function q5_0(bytes: Uint8Array, out: Float32Array): void {
  const half = f16Table();
  for (let at = 0, o = 0; at < bytes.length; at += 22, o += 32) {
    const d = half[bytes[at] | (bytes[at + 1] << 8)];
    const fifth = bytes[at + 2] | (bytes[at + 3] << 8) | (bytes[at + 4] << 16) | (bytes[at + 5] << 24);
    for (let j = 0; j < 16; j++) {
      const code = bytes[at + 6 + j];
      out[o + j] = d * (((code & 15) | (((fifth >>> j) & 1) << 4)) - 16);
      out[o + j + 16] = d * (((code >> 4) | (((fifth >>> (j + 16)) & 1) << 4)) - 16);
    }
  }
}

/** d, m, 4 bytes of fifth bits, 16 bytes of codes: d · code + m. */
function q5_1(bytes: Uint8Array, out: Float32Array): void {
  const half = f16Table();
  for (let at = 0, o = 0; at < bytes.length; at += 24, o += 32) {
    const d = half[bytes[at] | (bytes[at + 1] << 8)];
    const m = half[bytes[at + 2] | (bytes[at + 3] << 8)];
    const fifth = bytes[at + 4] | (bytes[at + 5] << 8) | (bytes[at + 6] << 16) | (bytes[at + 7] << 24);
    for (let j = 0; j < 16; j++) {
      const code = bytes[at + 8 + j];
      out[o + j] = d * ((code & 15) | (((fifth >>> j) & 1) << 4)) + m;
      out[o + j + 16] = d * ((code >> 4) | (((fifth >>> (j + 16)) & 1) << 4)) + m;
    }
  }
}

/** d, 32 signed bytes: d · code. */
function q8_0(bytes: Uint8Array, out: Float32Array): void {
  const half = f16Table();
  const signed = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0, o = 0; at < bytes.length; at += 34, o += 32) {
    const d = half[bytes[at] | (bytes[at + 1] << 8)];
    for (let j = 0; j < 32; j++) out[o + j] = d * signed[at + 2 + j];
  }
}

/** 16 bytes of 4-bit scale | 4-bit minimum, 64 bytes of 2-bit codes, d, m: d · scale · code - m · minimum, 16 values a scale. */
function q2_K(bytes: Uint8Array, out: Float32Array): void {
  const half = f16Table();
  for (let at = 0, o = 0; at < bytes.length; at += 84, o += 256) {
    const d = half[bytes[at + 80] | (bytes[at + 81] << 8)];
    const m = half[bytes[at + 82] | (bytes[at + 83] << 8)];
    for (let group = 0; group < 16; group++) {
      const scale = Math.fround(d * (bytes[at + group] & 15));
      const minimum = Math.fround(m * (bytes[at + group] >> 4));
      // Groups 0..7 lie in the first 32 bytes of codes, two groups a pair of bits; 8..15 in the second.
      const codes = at + 16 + (group >> 3) * 32 + (group & 1) * 16;
      const shift = ((group & 7) >> 1) * 2;
      for (let j = 0; j < 16; j++) out[o + group * 16 + j] = Math.fround(scale * ((bytes[codes + j] >> shift) & 3)) - minimum;
    }
  }
}

/** 32 bytes of third bits (clear: 4 less), 64 bytes of 2-bit codes, 12 bytes of 6-bit scales, d: d · (scale - 32) · code. */
function q3_K(bytes: Uint8Array, out: Float32Array): void {
  const half = f16Table();
  for (let at = 0, o = 0; at < bytes.length; at += 110, o += 256) {
    const d = half[bytes[at + 108] | (bytes[at + 109] << 8)];
    for (let group = 0; group < 16; group++) {
      const low = (bytes[at + 96 + (group & 7)] >> (group >> 3) * 4) & 15;
      const high = (bytes[at + 104 + (group & 3)] >> (group >> 2) * 2) & 3;
      const scale = Math.fround(d * ((low | (high << 4)) - 32));
      const column = (group & 1) * 16;
      const codes = at + 32 + (group >> 3) * 32 + column;
      const shift = ((group & 7) >> 1) * 2;
      const third = group >> 1;
      for (let j = 0; j < 16; j++) {
        const code = ((bytes[codes + j] >> shift) & 3) - ((bytes[at + column + j] >> third) & 1 ? 0 : 4);
        out[o + group * 16 + j] = scale * code;
      }
    }
  }
}

/** Eight 6-bit scales and eight 6-bit minima in 12 bytes: entry `j` of each. */
const scaleOf = (bytes: Uint8Array, at: number, j: number) =>
  j < 4 ? bytes[at + j] & 63 : (bytes[at + j + 4] & 15) | ((bytes[at + j - 4] >> 6) << 4);
const minimumOf = (bytes: Uint8Array, at: number, j: number) =>
  j < 4 ? bytes[at + j + 4] & 63 : (bytes[at + j + 4] >> 4) | ((bytes[at + j] >> 6) << 4);

/** d, m, 12 bytes of scales and minima, 128 bytes of 4-bit codes: d · scale · code - m · minimum, 32 values a scale. */
function q4_K(bytes: Uint8Array, out: Float32Array): void {
  const half = f16Table();
  for (let at = 0, o = 0; at < bytes.length; at += 144, o += 256) {
    const d = half[bytes[at] | (bytes[at + 1] << 8)];
    const m = half[bytes[at + 2] | (bytes[at + 3] << 8)];
    for (let group = 0; group < 8; group++) {
      const scale = Math.fround(d * scaleOf(bytes, at + 4, group));
      const minimum = Math.fround(m * minimumOf(bytes, at + 4, group));
      const codes = at + 16 + (group >> 1) * 32;
      const shift = (group & 1) * 4;
      for (let j = 0; j < 32; j++) out[o + group * 32 + j] = Math.fround(scale * ((bytes[codes + j] >> shift) & 15)) - minimum;
    }
  }
}

/** As Q4_K with 32 bytes of fifth bits before the codes; bit `group` of byte j belongs to value j of that group. */
function q5_K(bytes: Uint8Array, out: Float32Array): void {
  const half = f16Table();
  for (let at = 0, o = 0; at < bytes.length; at += 176, o += 256) {
    const d = half[bytes[at] | (bytes[at + 1] << 8)];
    const m = half[bytes[at + 2] | (bytes[at + 3] << 8)];
    for (let group = 0; group < 8; group++) {
      const scale = Math.fround(d * scaleOf(bytes, at + 4, group));
      const minimum = Math.fround(m * minimumOf(bytes, at + 4, group));
      const codes = at + 48 + (group >> 1) * 32;
      const shift = (group & 1) * 4;
      for (let j = 0; j < 32; j++) {
        const code = ((bytes[codes + j] >> shift) & 15) | (((bytes[at + 16 + j] >> group) & 1) << 4);
        out[o + group * 32 + j] = Math.fround(scale * code) - minimum;
      }
    }
  }
}

/** 128 bytes of low nibbles, 64 bytes of high pairs, 16 signed scales, d: d · scale · (code - 32), 16 values a scale. */
function q6_K(bytes: Uint8Array, out: Float32Array): void {
  const half = f16Table();
  const signed = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0, o = 0; at < bytes.length; at += 210, o += 256) {
    const d = half[bytes[at + 208] | (bytes[at + 209] << 8)];
    for (let group = 0; group < 16; group++) {
      const scale = Math.fround(d * signed[at + 192 + group]);
      const part = group >> 3; // which half of the super-block
      const row = (group & 7) >> 1; // which run of 32 values in it
      const column = (group & 1) * 16;
      const low = at + part * 64 + (row & 1) * 32 + column;
      const lowShift = (row >> 1) * 4;
      const high = at + 128 + part * 32 + column;
      const highShift = row * 2;
      for (let j = 0; j < 16; j++) {
        const code = ((bytes[low + j] >> lowShift) & 15) | (((bytes[high + j] >> highShift) & 3) << 4);
        out[o + group * 16 + j] = scale * (code - 32);
      }
    }
  }
}
