import type { CudaBackend } from '../../../engine/cuda/backend.js';
import { CudaWeightUploader } from '../../../engine/cuda/weight-uploader.js';
import { f16ToF32, bf16ToF32, f32ToBf16, f32ToF16 } from '../../../engine/formats/half-floats.js';
import { disposeWeight, freezeWeight, type BaseDtype, type FrozenWeight } from '../../../engine/tensor/frozen-weight.js';
import type { StoredValues } from '../../../engine/tensor/weight-upload.js';
import { Random } from './compare.js';

export interface UploadCase {
  name: string;
  dtype: StoredValues['dtype'];
  shape: [number, number];
  base: BaseDtype;
}

const shapes: [number, number][] = [[64, 64], [3, 1000], [257, 129], [1, 5], [1, 63], [700, 3200]];
const bases: BaseDtype[] = [{ dtype: 'nf4', doubleQuant: true }, { dtype: 'nf4', doubleQuant: false }, { dtype: 'int8' }, { dtype: 'bf16' }, { dtype: 'f32' }];

export const uploadCases: UploadCase[] = bases.flatMap((base) =>
  (['bf16', 'f16', 'f32'] as const).flatMap((dtype) => shapes.map((shape) => ({ name: `${dtype} [${shape.join(',')}] as ${JSON.stringify(base)}`, dtype, shape, base }))));

/** Random values with what is hard among them: blocks of zeros, of one value, with the largest magnitude negative, of tiny and of huge values. */
function hardValues(random: Random, count: number): Float32Array {
  const values = random.values(count, 0.3);
  const scale = random.values(Math.ceil(count / 64), 1);
  for (let i = 0; i < count; i++) {
    const block = Math.floor(i / 64);
    if (block % 11 === 1) values[i] = 0;
    else if (block % 11 === 2) values[i] = 0.125;
    else if (block % 11 === 3) values[i] = -0.25 * (1 + (i % 3 === 0 ? 1 : 0));
    else if (block % 11 === 4) values[i] *= 1e-30;
    else if (block % 11 === 5) values[i] *= 1e4;
    else values[i] *= scale[block];
  }
  return values;
}

function storedOf(dtype: StoredValues['dtype'], values: Float32Array): { stored: StoredValues; values: Float32Array } {
  const data = dtype === 'f32' ? values : dtype === 'f16' ? f32ToF16(values) : f32ToBf16(values);
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return {
    values: dtype === 'f32' ? values : dtype === 'f16' ? f16ToF32(data as Uint16Array) : bf16ToF32(data as Uint16Array),
    stored: {
      dtype, count: values.length,
      fill: (target, position) => Promise.resolve(void target.set(bytes.subarray(position, position + target.length))),
      notFinite: (value, index) => new Error(`${value} at ${index}`),
    },
  };
}

function contents(weight: FrozenWeight): ArrayLike<number>[] {
  switch (weight.kind) {
    case 'dense':
      return [weight.value.dataSync<'float32'>()];
    case 'int8':
      return [weight.codes.dataSync<'int32'>(), weight.absmax.dataSync<'float32'>()];
    case 'nf4': {
      const { codes, absmax } = weight;
      if (!absmax.nested) return [codes.dataSync<'int32'>(), absmax.values.dataSync<'float32'>()];
      return [codes.dataSync<'int32'>(), absmax.codes.dataSync<'int32'>(), absmax.absmax.dataSync<'float32'>(), [absmax.offset]];
    }
  }
}

/** Values of the stored form that differ from freezeWeight's, of all its tensors. */
export async function differences(backend: CudaBackend, { dtype, shape, base }: UploadCase, seed: number): Promise<number> {
  const { stored, values } = storedOf(dtype, hardValues(new Random(seed), shape[0] * shape[1]));
  const uploader = new CudaWeightUploader(backend);
  const own = await uploader.freeze(stored, shape, base);
  uploader.check();
  uploader.dispose();
  const reference = freezeWeight(values, shape, base);
  const [a, b] = [contents(own), contents(reference)];
  [own, reference].forEach(disposeWeight);
  return a.length === b.length ? a.reduce((sum, part, i) => sum + (part.length === b[i].length ? Array.from(part).filter((value, j) => value !== b[i][j]).length : Infinity), 0) : Infinity;
}

/** What is thrown for a matrix with a value that is not finite. */
export async function refusal(backend: CudaBackend, dtype: StoredValues['dtype'], value: number): Promise<string> {
  const values = new Random(1).values(5000);
  values[4321] = value;
  values[4999] = NaN;
  const uploader = new CudaWeightUploader(backend);
  const weight = await uploader.freeze(storedOf(dtype, values).stored, [50, 100], { dtype: 'int8' });
  try {
    uploader.check();
    return 'none';
  } catch (error) {
    return (error as Error).message;
  } finally {
    uploader.dispose();
    disposeWeight(weight);
  }
}
