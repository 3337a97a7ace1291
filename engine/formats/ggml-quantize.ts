/**
 * float32 to GGML's block formats, as ggml-blocks.ts decodes them. Q8_0 and Q5_0 give the bytes that ggml gives. The K formats
 * look for each group's scale (and minimum) among candidates, and take the one of the smallest weighted error; a scale is the
 * least-squares one for the candidate's codes.
 */
import { EngineError } from '../errors.js';
import { f16Table, f32ToF16 } from './half-floats.js';

/** Values that share a super-block of the K formats. */
const superBlock = 256;

export interface GgmlQuantizer {
  /** Number that GGUF files use (enum ggml_type). */
  type: number;
  /** Values in a block, which divide a row. */
  values: number;
  /** Bytes of a block. */
  bytes: number;
  /** `values` is whole blocks, finite. */
  encode(values: Float32Array): Uint8Array;
}

export const quantizers = {
  F32: { type: 0, values: 1, bytes: 4, encode: (values) => new Uint8Array(values.buffer, values.byteOffset, values.byteLength) },
  F16: { type: 1, values: 1, bytes: 2, encode: f16 },
  Q5_0: { type: 6, values: 32, bytes: 22, encode: q5_0 },
  Q8_0: { type: 8, values: 32, bytes: 34, encode: q8_0 },
  Q4_K: { type: 12, values: superBlock, bytes: 144, encode: q4_K },
  Q6_K: { type: 14, values: superBlock, bytes: 210, encode: q6_K },
} satisfies Record<string, GgmlQuantizer>;
export type QuantizedType = keyof typeof quantizers;

function f16(values: Float32Array): Uint8Array {
  const bits = f32ToF16(values);
  const over = bits.findIndex((word) => (word & 0x7fff) === 0x7c00);
  if (over >= 0) throw new EngineError('invalidInput', 'f16_overflow', `F16: expected values within ±65504, got ${values[over]}`);
  return new Uint8Array(bits.buffer);
}

const one = new Float32Array(1);
/** A value as the nearest half float: its bits, and what they stand for. */
function half(value: number): { bits: number; value: number } {
  one[0] = value;
  const [bits] = f32ToF16(one);
  return { bits, value: f16Table()[bits] };
}

function writeHalf(bytes: Uint8Array, at: number, bits: number): void {
  bytes[at] = bits & 255;
  bytes[at + 1] = bits >> 8;
}

/** Half away from zero, as C's roundf. */
const round = (value: number): number => (value < 0 ? -Math.floor(0.5 - value) : Math.floor(value + 0.5));

/** d = largest magnitude / 127; d, 32 signed codes. */
function q8_0(values: Float32Array): Uint8Array {
  const bytes = new Uint8Array((values.length / 32) * 34);
  for (let from = 0, at = 0; from < values.length; from += 32, at += 34) {
    let largest = 0;
    for (let i = from; i < from + 32; i++) largest = Math.max(largest, Math.abs(values[i]));
    const d = Math.fround(largest / 127);
    const inverse = d === 0 ? 0 : Math.fround(1 / d);
    writeHalf(bytes, at, half(d).bits);
    for (let i = 0; i < 32; i++) bytes[at + 2 + i] = round(Math.fround(values[from + i] * inverse));
  }
  return bytes;
}

/** d = the value of the largest magnitude / -16; d, fifth bits, 32 codes from 0 to 31 around 16. */
function q5_0(values: Float32Array): Uint8Array {
  const bytes = new Uint8Array((values.length / 32) * 22);
  const codes = new Uint8Array(32);
  for (let from = 0, at = 0; from < values.length; from += 32, at += 22) {
    let extreme = 0;
    for (let i = from; i < from + 32; i++) if (Math.abs(values[i]) > Math.abs(extreme)) extreme = values[i];
    const d = Math.fround(extreme / -16);
    const inverse = d === 0 ? 0 : Math.fround(1 / d);
    writeHalf(bytes, at, half(d).bits);
    let fifth = 0;
    for (let i = 0; i < 32; i++) {
      codes[i] = Math.min(31, Math.trunc(Math.fround(Math.fround(values[from + i] * inverse) + 16.5)));
      fifth |= (codes[i] >> 4) << i;
    }
    for (let i = 0; i < 4; i++) bytes[at + 2 + i] = fifth >>> (8 * i);
    for (let i = 0; i < 16; i++) bytes[at + 6 + i] = (codes[i] & 15) | ((codes[i + 16] & 15) << 4);
  }
  return bytes;
}

/** Candidates of a group's scale around the one that its extremes give, in code steps. */
const asymmetricSteps = Float64Array.from({ length: 21 }, (_, i) => -1 + 0.1 * i);
const symmetricSteps = Float64Array.from({ length: 19 }, (_, i) => -0.9 + 0.1 * i);

/**
 * Scale and minimum for 32 values as scale · code - minimum, with codes from 0 to 15 and minimum ≥ 0, both written at `place`.
 * An error weighs by the mean magnitude of the group and the value's own, so that large values are kept better.
 */
function fitWithMinimum(values: Float32Array, from: number, scales: Float64Array, minima: Float64Array, place: number): void {
  const count = 32;
  const top = 15;
  let [low, high, squares] = [0, values[from], 0]; // the minimum may not be above zero
  for (let i = from; i < from + count; i++) {
    const x = values[i];
    if (x < low) low = x;
    if (x > high) high = x;
    squares += x * x;
  }
  if (high <= low) {
    scales[place] = 0;
    minima[place] = -low;
    return;
  }
  const typical = Math.sqrt(squares / count);
  let [sumW, sumX] = [0, 0];
  for (let i = from; i < from + count; i++) {
    const w = typical + Math.abs(values[i]);
    sumW += w;
    sumX += w * values[i];
  }
  let bestError = Infinity;
  let bestScale = 0;
  let bestLow = 0;
  let base = low;
  for (let step = 0; step < asymmetricSteps.length; step++) {
    const inverse = (top + asymmetricSteps[step]) / (high - base);
    let sumL = 0;
    let sumLL = 0;
    let sumXL = 0;
    for (let i = from; i < from + count; i++) {
      const x = values[i];
      const raw = (inverse * (x - base) + 0.5) | 0;
      const code = raw > top ? top : raw < 0 ? 0 : raw;
      const w = typical + Math.abs(x);
      sumL += w * code;
      sumLL += w * code * code;
      sumXL += w * code * x;
    }
    const determinant = sumW * sumLL - sumL * sumL;
    if (determinant <= 0) continue;
    let scale = (sumW * sumXL - sumX * sumL) / determinant;
    let offset = (sumLL * sumX - sumL * sumXL) / determinant;
    if (offset > 0) {
      offset = 0;
      scale = sumXL / sumLL;
    }
    // Of the weighted squares, the part that depends on the fit.
    const error = scale * scale * sumLL + 2 * scale * offset * sumL + offset * offset * sumW - 2 * scale * sumXL - 2 * offset * sumX;
    if (error < bestError) {
      bestError = error;
      bestScale = scale;
      bestLow = offset;
      base = offset; // the candidates that follow start from the better minimum
    }
  }
  scales[place] = bestScale;
  minima[place] = -bestLow;
}

/** d, m, eight 6-bit scales and minima, 256 codes of 4 bits. */
function q4_K(values: Float32Array): Uint8Array {
  const bytes = new Uint8Array((values.length / superBlock) * 144);
  const scales = new Float64Array(8);
  const minima = new Float64Array(8);
  const codes = new Uint8Array(superBlock);
  for (let from = 0, at = 0; from < values.length; from += superBlock, at += 144) {
    for (let group = 0; group < 8; group++) fitWithMinimum(values, from + 32 * group, scales, minima, group);
    const d = half(Math.max(...scales) / 63);
    const m = half(Math.max(...minima) / 63);
    writeHalf(bytes, at, d.bits);
    writeHalf(bytes, at + 2, m.bits);
    for (let group = 0; group < 8; group++) {
      const scaleCode = d.value === 0 ? 0 : Math.min(63, Math.max(0, round(scales[group] / d.value)));
      const minimumCode = m.value === 0 ? 0 : Math.min(63, Math.max(0, round(minima[group] / m.value)));
      writeScale(bytes, at + 4, group, scaleCode, minimumCode);
      const scale = d.value * scaleCode;
      const inverse = scale === 0 ? 0 : 1 / scale;
      const minimum = m.value * minimumCode;
      for (let i = 0; i < 32; i++) {
        const code = round((values[from + 32 * group + i] + minimum) * inverse);
        codes[32 * group + i] = code < 0 ? 0 : code > 15 ? 15 : code;
      }
    }
    for (let pair = 0; pair < 4; pair++) {
      for (let i = 0; i < 32; i++) bytes[at + 16 + 32 * pair + i] = codes[64 * pair + i] | (codes[64 * pair + 32 + i] << 4);
    }
  }
  return bytes;
}

/** Entry `j` of eight 6-bit scales and eight 6-bit minima in 12 bytes; the first four of each must be written first. */
function writeScale(bytes: Uint8Array, at: number, j: number, scale: number, minimum: number): void {
  if (j < 4) {
    bytes[at + j] = scale;
    bytes[at + j + 4] = minimum;
    return;
  }
  bytes[at + j + 4] = (scale & 15) | ((minimum & 15) << 4);
  bytes[at + j - 4] |= (scale >> 4) << 6;
  bytes[at + j] |= (minimum >> 4) << 6;
}

/** Scale for 16 values as scale · code with codes from -32 to 31. An error weighs by the value's square. */
function fitSymmetric(values: Float32Array, from: number): number {
  const count = 16;
  let extreme = 0;
  for (let i = from; i < from + count; i++) if (Math.abs(values[i]) > Math.abs(extreme)) extreme = values[i];
  if (Math.abs(extreme) < 1e-15) return 0;
  let bestGain = -1;
  let bestScale = 0;
  for (let step = 0; step < symmetricSteps.length; step++) {
    const inverse = -(32 + symmetricSteps[step]) / extreme;
    let sumXL = 0;
    let sumLL = 0;
    for (let i = from; i < from + count; i++) {
      const x = values[i];
      const above = (inverse * x + 32.5) | 0; // no candidate goes below -33
      const code = above > 63 ? 31 : above - 32;
      const w = x * x;
      sumXL += w * x * code;
      sumLL += w * code * code;
    }
    // Of the weighted squares, sumXL² / sumLL is what the best scale for these codes explains.
    if (sumLL > 0 && sumXL * sumXL > bestGain * sumLL) {
      bestGain = (sumXL * sumXL) / sumLL;
      bestScale = sumXL / sumLL;
    }
  }
  return bestScale;
}

/** 128 bytes of low nibbles, 64 of high pairs, 16 signed scales, d. */
function q6_K(values: Float32Array): Uint8Array {
  const bytes = new Uint8Array((values.length / superBlock) * 210);
  const signed = new Int8Array(bytes.buffer);
  const scales = new Float64Array(16);
  const codes = new Uint8Array(superBlock);
  for (let from = 0, at = 0; from < values.length; from += superBlock, at += 210) {
    let extreme = 0;
    for (let group = 0; group < 16; group++) {
      scales[group] = fitSymmetric(values, from + 16 * group);
      if (Math.abs(scales[group]) > Math.abs(extreme)) extreme = scales[group];
    }
    const d = half(extreme / -128);
    writeHalf(bytes, at + 208, d.bits);
    for (let group = 0; group < 16; group++) {
      const scaleCode = d.value === 0 ? 0 : Math.min(127, Math.max(-128, round(scales[group] / d.value)));
      signed[at + 192 + group] = scaleCode;
      const scale = d.value * scaleCode;
      const inverse = scale === 0 ? 0 : 1 / scale;
      for (let i = 0; i < 16; i++) {
        const code = round(values[from + 16 * group + i] * inverse);
        codes[16 * group + i] = (code < -32 ? -32 : code > 31 ? 31 : code) + 32;
      }
    }
    for (let part = 0; part < 2; part++) {
      for (let i = 0; i < 32; i++) {
        const place = 128 * part + i;
        const [a, b, c, e] = [codes[place], codes[place + 32], codes[place + 64], codes[place + 96]];
        bytes[at + 64 * part + i] = (a & 15) | ((c & 15) << 4);
        bytes[at + 64 * part + 32 + i] = (b & 15) | ((e & 15) << 4);
        bytes[at + 128 + 32 * part + i] = (a >> 4) | ((b >> 4) << 2) | ((c >> 4) << 4) | ((e >> 4) << 6);
      }
    }
  }
  return bytes;
}
