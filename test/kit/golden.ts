import { fileURLToPath } from 'node:url';
import { readSafetensors } from '../../engine/formats/safetensors.js';

/** Path of a golden file or directory. */
export const goldenPath = (name: string): string => fileURLToPath(new URL(`../golden/${name}`, import.meta.url));

/** The float32 and int32 tensors of a golden safetensors file, by name. */
export async function readGolden(name: string): Promise<(tensor: string) => { shape: number[]; data: Float32Array | Int32Array }> {
  const tensors = await readSafetensors(goldenPath(name));
  return (tensor) => {
    const found = tensors.get(tensor);
    if (found?.dtype !== 'F32' && found?.dtype !== 'I32') throw new Error(`${name}: tensor ${tensor}: expected F32 or I32, got ${found?.dtype ?? 'none'}`);
    return found;
  };
}

/** ‖a - b‖ / ‖b‖. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Infinity;
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += (actual[i] - expected[i]) ** 2;
    norm += expected[i] ** 2;
  }
  return Math.sqrt(difference / norm);
}
