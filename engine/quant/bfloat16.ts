/** Rounds float32 values to bfloat16, ties to even, and keeps them in float32. */
export function roundToBfloat16(values: Float32Array): Float32Array {
  const rounded = new Float32Array(values.length);
  const from = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const to = new Uint32Array(rounded.buffer);
  for (let i = 0; i < from.length; i++) {
    const bits = from[i];
    // A NaN stays a NaN: rounding its bits could make an infinity.
    to[i] = (bits & 0x7fffffff) > 0x7f800000 ? bits | 0x00400000 : (bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000;
  }
  return rounded;
}
