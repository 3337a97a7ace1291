import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { f32ToF16, f16ToF32 } from '../../engine/formats/half-floats.js';
import { streamSafetensors } from '../../engine/formats/safetensors.js';
import { goldenPath } from './golden.js';
import { temporaryDirectory } from './temporary.js';

/** A model of test/golden/architectures.py. */
export interface FormulaModel {
  config: Record<string, unknown>;
  tensors: Record<string, number[]>;
  parameters: number;
  greedy: number[][];
  lora?: { loss: number; parameters: number };
}

/** test/golden/architectures.json. */
export const architectureGolden = JSON.parse(readFileSync(goldenPath('architectures.json'), 'utf8')) as {
  rows: number[][];
  prompts: number[][];
  models: Record<string, FormulaModel>;
};

/** Pseudo-random numbers in [-1, 1), of 16 bits, as the script makes them from a tensor's name. */
export function formula(name: string, size: number): Float32Array {
  let seed = 2166136261;
  for (const byte of Buffer.from(name)) seed = Math.imul(seed ^ byte, 16777619);
  return Float32Array.from({ length: size }, (_, i) => {
    let x = (Math.imul(i, 0x9e3779b1) + seed) | 0;
    x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
    x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
    x ^= x >>> 16;
    return (x >>> 16) / 32768 - 1;
  });
}

/** A tensor's values in the script's models; f16 is exact for them. */
export function formulaWeights(name: string, size: number): Float32Array {
  const scaled = name.endsWith('norm.weight') ? (value: number) => 1 + 0.25 * value : (value: number) => Math.fround(name.endsWith('.bias') ? 0.25 : Math.fround(0.2)) * value;
  return f16ToF32(f32ToF16(formula(name, size).map(scaled)));
}

const sizeOf = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1);

/** A Hugging Face directory of one of the script's models, there until the test file ends. */
export async function formulaDirectory({ config, tensors }: Pick<FormulaModel, 'config' | 'tensors'>): Promise<string> {
  const directory = temporaryDirectory();
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, 'config.json'), JSON.stringify(config));
  const plans = Object.entries(tensors).map(([name, shape]) => ({ name, dtype: 'F32' as const, shape }));
  await streamSafetensors(join(directory, 'model.safetensors'), plans, async (name) => formulaWeights(name, sizeOf(tensors[name])), { format: 'pt' });
  return directory;
}
