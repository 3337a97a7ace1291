import { add, concat, expandDims, mul, split, sub, type Tensor, type Tensor3D, type Tensor4D } from '@tensorflow/tfjs-core';
import { differentiable, registerPortableKernel, runKernel, type Inputs } from './kernel.js';
import { expectShape, shapeError, shapeText } from './shape-error.js';

/** Kernel: { x [B,T,H,D], cos [B,T,D/2], sin [B,T,D/2] }, { inverse } → [B,T,H,D]. Its own backward: the inverse rotation. */
export const RotaryEmbedding = 'TemperRotaryEmbedding';
export interface RotaryEmbeddingInputs extends Inputs {
  x: Tensor4D;
  cos: Tensor3D;
  sin: Tensor3D;
}
export interface RotaryEmbeddingAttrs {
  /** Rotate by the negative angle. */
  inverse: boolean;
  /** Only attention reads the result: it may be rounded as that backend's attention rounds its operands, before they are rotated. @default false */
  forAttention?: boolean;
}

/**
 * Rotates pairs (i, i + D/2) of each head by the angle of its position: the half-split convention of Hugging Face's LLaMA
 * (RoPE, arXiv 2104.09864).
 * @param x [B, T, H, D] with D even
 * @param cos, sin [B, T, D/2]; no gradient flows to them
 */
export function rotaryEmbedding(x: Tensor4D, cos: Tensor3D, sin: Tensor3D): Tensor4D {
  if (x.rank !== 4 || x.shape[3] % 2) throw shapeError(`rotaryEmbedding: x: expected [B,T,H,D] with D even, got ${shapeText(x)}`);
  const angles = [x.shape[0], x.shape[1], x.shape[3] / 2];
  expectShape('rotaryEmbedding', 'cos', cos, angles);
  expectShape('rotaryEmbedding', 'sin', sin, angles);
  return differentiable<Tensor4D>(
    { x },
    (save) => {
      save([cos, sin]);
      return rotate(x, cos, sin, false);
    },
    (dy, [cos, sin]) => ({ x: () => rotate(dy, cos, sin, true) }),
  );
}

/** The kernel's result, of which no gradient is recorded. */
export const rotate = (x: Tensor, cos: Tensor, sin: Tensor, inverse: boolean): Tensor4D =>
  runKernel<Tensor4D>(RotaryEmbedding, { x, cos, sin }, { inverse } satisfies RotaryEmbeddingAttrs);

registerPortableKernel<RotaryEmbeddingInputs, RotaryEmbeddingAttrs>(RotaryEmbedding, ({ x, cos, sin }, { inverse }) => {
  const [low, high] = split(x, 2, -1);
  const [c, s] = [expandDims(cos, 2), expandDims(sin, 2)];
  const [lowSin, highSin] = [mul(low, s), mul(high, s)];
  const [lowCos, highCos] = [mul(low, c), mul(high, c)];
  return concat(inverse ? [add(lowCos, highSin), sub(highCos, lowSin)] : [sub(lowCos, highSin), add(highCos, lowSin)], -1);
});
