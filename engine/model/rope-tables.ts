import { tensor3d, type Tensor3D, type Tensor4D } from '@tensorflow/tfjs-core';
import type { LlamaConfig } from '../formats/llama-config.js';
import { llama3Factors, rotaryFrequencies } from '../formats/rope-scaling.js';
import { rotaryEmbedding } from '../tensor/rotary-embedding.js';

/** Cosines and sines of the rotary angles, [B, T, headDim / 2]. */
export interface RopeTables {
  cos: Tensor3D;
  sin: Tensor3D;
}

/**
 * Angle of pair i at position p: p · theta^(-2i / headDim), the frequencies changed by the model's rope scaling. `positions` is
 * [B, T], row-major; a run of positions that count up by one is a row of its own for `dynamic` scaling, which goes by its length,
 * as if it were alone in the batch.
 */
export function ropeTables(config: LlamaConfig, positions: ArrayLike<number>, [rows, columns]: [number, number]): RopeTables {
  const half = config.headDim / 2;
  const cos = new Float32Array(positions.length * half);
  const sin = new Float32Array(positions.length * half);
  const longest = config.ropeScaling?.type === 'dynamic' ? runEnds(positions, columns) : undefined;
  let length = 0;
  let frequencies = frequenciesOf(config, length);
  /** Where the angles of a position begin, by these frequencies: the rows of a batch have the same ones. */
  const known = new Map<number, number>();
  for (let p = 0, at = 0; p < positions.length; p++) {
    if (longest && longest[p] !== length) {
      length = longest[p];
      frequencies = frequenciesOf(config, length);
      known.clear();
    }
    const from = known.get(positions[p]);
    if (from !== undefined) {
      for (const table of [cos, sin]) table.copyWithin(at, from, from + half);
      at += half;
      continue;
    }
    known.set(positions[p], at);
    for (let i = 0; i < half; i++, at++) {
      const angle = Math.fround(positions[p] * frequencies[i]);
      cos[at] = Math.cos(angle);
      sin[at] = Math.sin(angle);
    }
  }
  return { cos: tensor3d(cos, [rows, columns, half]), sin: tensor3d(sin, [rows, columns, half]) };
}

/** Queries or keys [B, T, H, headDim], rotated by the angles of their positions where there are any. */
export const rotated = (x: Tensor4D, rope?: RopeTables): Tensor4D => (rope ? rotaryEmbedding(x, rope.cos, rope.sin) : x);

/** In float32, as transformers has them. `length` is that of the row in tokens, of which `dynamic` scaling alone takes notice. */
function frequenciesOf({ headDim, ropeTheta, ropeScaling }: LlamaConfig, length: number): Float32Array {
  const plain = rotaryFrequencies(ropeTheta, headDim);
  switch (ropeScaling?.type) {
    case undefined:
      return Float32Array.from(plain);
    case 'linear':
      return Float32Array.from(plain, (frequency) => frequency / ropeScaling.factor);
    case 'llama3': {
      const factors = llama3Factors(plain, ropeScaling);
      return Float32Array.from(plain, (frequency, i) => frequency / factors[i]);
    }
    case 'dynamic': {
      const { factor, originalContextLength } = ropeScaling;
      const stretch = (factor * Math.max(length, originalContextLength)) / originalContextLength - (factor - 1);
      return Float32Array.from(rotaryFrequencies(ropeTheta * stretch ** (headDim / (headDim - 2)), headDim));
    }
  }
}

/** For each position, one more than the last of its run. */
function runEnds(positions: ArrayLike<number>, columns: number): Int32Array {
  const ends = new Int32Array(positions.length);
  for (let p = positions.length - 1; p >= 0; p--) {
    const continues = (p + 1) % columns !== 0 && positions[p + 1] === positions[p] + 1;
    ends[p] = continues ? ends[p + 1] : positions[p] + 1;
  }
  return ends;
}
