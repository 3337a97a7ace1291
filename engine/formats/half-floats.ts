/** The two 16-bit floats, as bit patterns in a Uint16Array. Conversions to 16 bits round to nearest, ties to even. */

const scratch = new Float32Array(1);
const scratchBits = new Uint32Array(scratch.buffer);

let halfTable: Float32Array | undefined;

/** All 65,536 IEEE half floats as float32: faster than computing one. */
export function f16Table(): Float32Array {
  if (halfTable) return halfTable;
  halfTable = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    const magnitude =
      exponent === 0 ? fraction * 2 ** -24
      : exponent === 31 ? (fraction === 0 ? Infinity : NaN)
      : (1 + fraction / 1024) * 2 ** (exponent - 15);
    halfTable[bits] = bits & 0x8000 ? -magnitude : magnitude;
  }
  return halfTable;
}

export function f16ToF32(bits: Uint16Array): Float32Array {
  const table = f16Table();
  const values = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) values[i] = table[bits[i]];
  return values;
}

export function bf16ToF32(bits: Uint16Array): Float32Array {
  const values = new Float32Array(bits.length);
  const target = new Uint32Array(values.buffer);
  for (let i = 0; i < bits.length; i++) target[i] = bits[i] << 16;
  return values;
}

export function f32ToBf16(values: Float32Array): Uint16Array {
  const source = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    const word = source[i];
    const isNan = (word & 0x7fffffff) > 0x7f800000;
    // A NaN keeps its sign and gets a set quiet bit: rounding could turn it into infinity.
    bits[i] = isNan ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return bits;
}

/** Values beyond ±65,504 (rounded) become infinities. */
export function f32ToF16(values: Float32Array): Uint16Array {
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    scratch[0] = values[i];
    const word = scratchBits[0];
    const sign = (word >>> 16) & 0x8000;
    const magnitude = word & 0x7fffffff;
    if (magnitude > 0x7f800000) {
      bits[i] = sign | 0x7e00 | ((magnitude >>> 13) & 0x3ff);
    } else if (magnitude >= 0x477ff000) {
      bits[i] = sign | 0x7c00;
    } else if (magnitude < 0x38800000) {
      // Subnormal halves are multiples of 2^-24; adding 0.5 lines their last bit up with a float32's, which rounds to even.
      scratch[0] = Math.abs(values[i]) + 0.5;
      bits[i] = sign | (scratchBits[0] - 0x3f000000);
    } else {
      const odd = (magnitude >>> 13) & 1;
      bits[i] = sign | ((magnitude - 0x38000000 + 0xfff + odd) >>> 13);
    }
  }
  return bits;
}
