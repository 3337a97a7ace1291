import { tensor2d, zeros } from '@tensorflow/tfjs-core';
import { adaptedModules } from '../../formats/lora-modules.js';
import { peftTensorName } from '../../formats/peft-adapter.js';
import { philoxWords } from '../../random/philox.js';
import type { Variant } from './variant.js';

/** A [rank, in] and B [out, rank] of every adapted linear layer; B is zero, so that the model starts unchanged (arXiv 2106.09685). */
export const lowRank: Variant = (config, options) =>
  adaptedModules(config, options).flatMap(({ path, shape: [out, inner], rank }) => {
    const name = peftTensorName(path, 'A');
    const draw = draws[options.initLoraWeights ?? 'default'];
    return [
      { name, shape: [rank, inner], initial: ({ seed }) => tensor2d(draw({ rank, inner, seed, name }), [rank, inner]) },
      { name: peftTensorName(path, 'B'), shape: [out, rank], initial: () => zeros([out, rank]) },
    ];
  });

interface DrawnMatrix {
  rank: number;
  inner: number;
  seed: number;
  name: string;
}

/** How A may be drawn. A new way is added here. */
const draws = {
  /** Uniform in ±1/√in: Kaiming's with a = √5. */
  default: ({ rank, inner, seed, name }: DrawnMatrix): Float32Array => {
    const bound = 1 / Math.sqrt(inner);
    return Float32Array.from(words(seed, name, rank * inner), (word) => ((word + 0.5) / 2 ** 31 - 1) * bound);
  },
  /** Normal with a deviation of 1/rank, by Box and Muller's transform. */
  gaussian: ({ rank, inner, seed, name }: DrawnMatrix): Float32Array => {
    const count = rank * inner;
    const uniform = Float64Array.from(words(seed, name, 2 * count), (word) => (word + 0.5) / 2 ** 32);
    return Float32Array.from({ length: count }, (_, i) => (Math.sqrt(-2 * Math.log(uniform[2 * i])) * Math.cos(2 * Math.PI * uniform[2 * i + 1])) / rank);
  },
};

const words = (seed: number, name: string, count: number): Uint32Array => philoxWords({ seed, step: 0, stream: hash(name) }, count);

/** FNV-1a, 32 bits: a stream for each parameter that does not depend on what else is targeted. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
  return value >>> 0;
}
