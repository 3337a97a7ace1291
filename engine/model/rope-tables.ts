import { tensor3d, type Tensor3D } from '@tensorflow/tfjs-core';
import type { LlamaConfig } from '../formats/llama-config.js';

/** Cosines and sines of the rotary angles, [B, T, headDim / 2]. */
export interface RopeTables {
  cos: Tensor3D;
  sin: Tensor3D;
}

/** Angle of pair i at position p: p · theta^(-2i / headDim), as transformers' default rope. `positions` is [B, T], row-major. */
export function ropeTables({ headDim, ropeTheta }: LlamaConfig, positions: ArrayLike<number>, [rows, columns]: [number, number]): RopeTables {
  const half = headDim / 2;
  const frequencies = Float32Array.from({ length: half }, (_, i) => 1 / ropeTheta ** ((2 * i) / headDim));
  const cos = new Float32Array(positions.length * half);
  const sin = new Float32Array(positions.length * half);
  for (let p = 0, at = 0; p < positions.length; p++) {
    for (let i = 0; i < half; i++, at++) {
      const angle = Math.fround(positions[p] * frequencies[i]);
      cos[at] = Math.cos(angle);
      sin[at] = Math.sin(angle);
    }
  }
  return { cos: tensor3d(cos, [rows, columns, half]), sin: tensor3d(sin, [rows, columns, half]) };
}
