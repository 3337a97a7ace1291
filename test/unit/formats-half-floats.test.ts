import { expect, it } from 'vitest';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from '../../engine/formats/half-floats.js';
import { readSafetensors } from '../../engine/formats/safetensors.js';

const every = Uint16Array.from({ length: 65536 }, (_, bits) => bits);
const golden = await readSafetensors('test/golden/formats-blocks.safetensors');
const numbers = golden.get('round.f32')!.data as Float32Array;

it('rounds to bf16 as torch does', () => expect(f32ToBf16(numbers)).toEqual(golden.get('round.bf16')!.data));
it('rounds to f16 as torch does', () => expect(f32ToF16(numbers)).toEqual(golden.get('round.f16')!.data));

it.each([
  ['f16', f16ToF32, f32ToF16, 0x7c00],
  ['bf16', bf16ToF32, f32ToBf16, 0x7f80],
] as const)('gives every %s back, and a NaN as a NaN', (_name, widen, narrow, infinity) => {
  const back = narrow(widen(every));
  const isNan = (bits: number) => (bits & 0x7fff) > infinity;
  expect([...every].filter((bits) => (isNan(bits) ? !isNan(back[bits]) : back[bits] !== bits))).toEqual([]);
});
