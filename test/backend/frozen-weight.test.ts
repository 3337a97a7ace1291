import { memory, tidy } from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { roundToBfloat16 } from '../../engine/quant/bfloat16.js';
import { dequantizeInt8, quantizeInt8 } from '../../engine/quant/int8.js';
import { dequantizeNf4, quantizeNf4 } from '../../engine/quant/nf4.js';
import { dequantize, disposeWeight, freezeWeight, weightBytes, type BaseDtype, type FrozenWeight } from '../../engine/tensor/frozen-weight.js';
import { describeBackends } from '../kit/backends.js';
import { expectClose, random } from '../kit/check-op.js';

/** What the stored form stands for, from engine/quant, which is proved against bitsandbytes. */
function stored(values: Float32Array, [rows, columns]: [number, number], base: BaseDtype): Float32Array {
  switch (base.dtype) {
    case 'nf4':
      return dequantizeNf4(quantizeNf4(values, base));
    case 'int8':
      return dequantizeInt8(quantizeInt8(values, rows, columns));
    case 'bf16':
      return roundToBfloat16(values);
    case 'f32':
      return values;
  }
}

const bases: BaseDtype[] = [{ dtype: 'nf4', doubleQuant: false }, { dtype: 'nf4', doubleQuant: true }, { dtype: 'int8' }, { dtype: 'bf16' }, { dtype: 'f32' }];
const shapes: [number, number][] = [[64, 48], [7, 13], [1, 1], [1, 257], [200, 130]];

describeBackends('frozen weight', ({ backend }) => {
  /** cuda computes in bfloat16; the others give the very same numbers. */
  const tolerance = backend === 'cuda' ? 2 ** -8 : Number.MIN_VALUE;

  it.each(bases.flatMap((base) => shapes.map((shape) => [JSON.stringify(base), shape, base] as const)))('%s of %j stands for the numbers of engine/quant', async (_name, shape, base) => {
    const { values } = random([...shape]);
    const before = memory().numTensors;
    for (const resident of [false, true]) {
      const weight = freezeWeight(values, [...shape], base, { resident });
      const matrix = dequantize(weight);
      expect(matrix.shape).toEqual(shape);
      expectClose(await matrix.data(), stored(values, [...shape], base), tolerance, `resident ${resident}`);
      matrix.dispose();
      disposeWeight(weight);
    }
    expect(memory().numTensors - before).toBe(0);
  });

  it('survives a tidy', async () => {
    let weight: FrozenWeight | undefined;
    tidy(() => {
      weight = freezeWeight(random([4, 32]).values, [4, 32], { dtype: 'nf4', doubleQuant: true });
    });
    expect((await dequantize(weight!).data()).length).toBe(128);
  });

  it('takes 4.5 bits a value in NF4, 4.127 with double quantisation, and 8 in int8, beside the scale of each row', () => {
    const { values } = random([256, 256]);
    const bytes = (base: BaseDtype): number => weightBytes(freezeWeight(values, [256, 256], base));
    expect(bytes({ dtype: 'nf4', doubleQuant: false })).toBe(256 * 256 * (1 / 2 + 4 / 64));
    expect(bytes({ dtype: 'nf4', doubleQuant: true })).toBe(256 * 256 * (1 / 2 + 1 / 64) + 4 * 4);
    expect(bytes({ dtype: 'int8' })).toBe(256 * 256 + 256 * 4);
  });

  it('names what does not fit', () =>
    expect(() => freezeWeight(new Float32Array(5), [2, 3], { dtype: 'int8' })).toThrow('freezeWeight: values: expected 6 for [2,3], got 5'));
});
