import { ones, tensor, type Tensor3D, type Tensor4D } from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { rotaryEmbedding } from '../../engine/tensor/rotary-embedding.js';
import { describeBackends } from '../kit/backends.js';
import { checkOp, random } from '../kit/check-op.js';

/** [B, T, D/2] angles as cos and sin. */
function angles(batch: number, length: number, half: number): { cos: Float32Array; sin: Float32Array } {
  const { values } = random([batch, length, half], Math.PI);
  return { cos: values.map(Math.cos), sin: values.map(Math.sin) };
}

describeBackends('rotaryEmbedding', ({ tolerance }) => {
  it.each([[2, 3, 2, 8], [1, 1, 3, 2], [1, 5, 1, 6]])('rotates %d×%d positions of %d heads of size %d', async (batch, length, heads, size) => {
    const half = size / 2;
    const { cos, sin } = angles(batch, length, half);
    await checkOp({
      operands: { x: random([batch, length, heads, size]) },
      op: ({ x }) =>
        rotaryEmbedding(x as Tensor4D, tensor(cos.slice(), [batch, length, half]) as Tensor3D, tensor(sin.slice(), [batch, length, half]) as Tensor3D),
      reference: ({ x }) =>
        x.map((value, i) => {
          const d = i % size;
          const angle = Math.floor(i / (size * heads)) * half + (d % half);
          return d < half ? value * cos[angle] - x[i + half] * sin[angle] : value * cos[angle] + x[i - half] * sin[angle];
        }),
      tolerance,
    });
  });

  it('names the shapes on a mismatch', () => {
    expect(() => rotaryEmbedding(ones([1, 2, 3, 5]), ones([1, 2, 2]), ones([1, 2, 2]))).toThrow('rotaryEmbedding: x: expected [B,T,H,D] with D even, got [1,2,3,5]');
    expect(() => rotaryEmbedding(ones([1, 2, 3, 4]), ones([1, 2, 4]), ones([1, 2, 2]))).toThrow('rotaryEmbedding: cos: expected shape [1,2,2], got [1,2,4]');
  });
});
