import { clone, dispose, grads, keep, memory, mul, ones, tensor2d, tensor4d, tidy, type Tensor, type Tensor3D, type Tensor4D } from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { causalAttention, type AttentionMemory, type AttentionResult } from '../../engine/tensor/causal-attention.js';
import { rotaryEmbedding } from '../../engine/tensor/rotary-embedding.js';
import { describeBackends } from '../kit/backends.js';
import { checkOp, expectClose, random, toTensor, type Numbers } from '../kit/check-op.js';

interface Sizes {
  batch: number;
  length: number;
  heads: number;
  groups: number;
  size: number;
  /** @default no window */
  window?: number;
}

/** 0 where there is padding, whose output is nobody's: [B, T, 1, 1]. */
const rows = (segments: number[][]): Tensor => tensor4d(segments.flat().map((segment) => Math.sign(segment)), [segments.length, segments[0].length, 1, 1]);

/** Straight from the definition, one query at a time, in float64; 0 for padding. */
function reference(q: Numbers, k: Numbers, v: Numbers, segments: number[][], { batch, length, heads, groups, size, window = Infinity }: Sizes): Float64Array {
  const out = new Float64Array(batch * length * heads * size);
  const row = (b: number, t: number, h: number, count: number): number => ((b * length + t) * count + h) * size;
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      const group = Math.floor(h / (heads / groups));
      for (let t = 0; t < length; t++) {
        if (segments[b][t] === 0) continue;
        const seen = Array.from({ length: t + 1 }, (_, s) => s).filter((s) => segments[b][s] === segments[b][t] && t - s < window);
        const scores = seen.map((s) => {
          let dot = 0;
          for (let d = 0; d < size; d++) dot += q[row(b, t, h, heads) + d] * k[row(b, s, group, groups) + d];
          return dot / Math.sqrt(size);
        });
        const most = Math.max(...scores);
        const weights = scores.map((score) => Math.exp(score - most));
        const total = weights.reduce((sum, weight) => sum + weight);
        seen.forEach((s, i) => {
          for (let d = 0; d < size; d++) out[row(b, t, h, heads) + d] += (weights[i] / total) * v[row(b, s, group, groups) + d];
        });
      }
    }
  }
  return out;
}

describeBackends('causalAttention', ({ tolerance }) => {
  it.each<[string, Sizes, number[][]]>([
    ['one row', { batch: 1, length: 5, heads: 2, groups: 2, size: 4 }, [[1, 1, 1, 1, 1]]],
    ['grouped heads', { batch: 2, length: 3, heads: 6, groups: 2, size: 4 }, [[1, 1, 1], [1, 1, 1]]],
    ['packed rows, some of length 1, and padding', { batch: 2, length: 6, heads: 3, groups: 1, size: 6 }, [[1, 2, 2, 3, 0, 0], [1, 1, 1, 1, 2, 3]]],
    ['a single position', { batch: 1, length: 1, heads: 4, groups: 2, size: 2 }, [[1]]],
    ['a window of two', { batch: 1, length: 4, heads: 2, groups: 1, size: 4, window: 2 }, [[1, 1, 1, 1]]],
    ['a window shorter than the rows', { batch: 2, length: 9, heads: 4, groups: 2, size: 4, window: 3 }, [[1, 1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 2, 2, 2, 0]]],
    ['a window longer than the rows', { batch: 1, length: 3, heads: 2, groups: 2, size: 4, window: 4 }, [[1, 1, 1]]],
  ])('attends within segments and to the past: %s', async (_name, sizes, segments) => {
    const { batch, length, heads, groups, size, window } = sizes;
    await checkOp({
      operands: { q: random([batch, length, heads, size], 2), k: random([batch, length, groups, size], 2), v: random([batch, length, groups, size]) },
      op: ({ q, k, v }) =>
        mul(causalAttention(q as Tensor4D, k as Tensor4D, v as Tensor4D, tensor2d(segments, [batch, length], 'int32'), { window }), rows(segments)),
      reference: ({ q, k, v }) => reference(q, k, v, segments, sizes),
      tolerance,
    });
  });

  it.each([
    { keptProbabilities: 0 }, {}, { keptProbabilities: 0, window: 3 }, { window: 3 },
  ])('gives packed rows what they get on their own: %o', async ({ keptProbabilities, window }: { keptProbabilities?: number; window?: number }) => {
    const [rows, length, heads, size] = [4, 7, 4, 2];
    const operands = [random([rows, length, heads, size]), random([rows, length, 2, size]), random([rows, length, 2, size]), random([rows, length, heads, size])];
    /** The same rows in `batch` bins. */
    const run = (batch: number, options: { keptProbabilities?: number; window?: number }): Tensor[] => {
      const segments = Int32Array.from({ length: rows * length }, (_, i) => Math.floor(i / length) + 1);
      const [q, k, v, dy] = operands.map(({ shape, values }) => tensor4d(values.slice(), [batch, (rows * length) / batch, shape[2], shape[3]]));
      const attend = (...[q, k, v]: Tensor[]) =>
        causalAttention(q as Tensor4D, k as Tensor4D, v as Tensor4D, tensor2d(segments, [batch, segments.length / batch], 'int32'), options);
      return [attend(q, k, v), ...grads(attend)([q, k, v], dy)];
    };
    const before = memory().numTensors;
    const packed = tidy(() => run(2, { keptProbabilities, window }));
    const alone = tidy(() => run(rows, { window }));
    for (const [i, what] of ['value', 'gradient to q', 'gradient to k', 'gradient to v'].entries()) {
      expectClose(await packed[i].data(), await alone[i].data(), tolerance, what);
    }
    for (const tensor of [...packed, ...alone]) tensor.dispose();
    expect(memory().numTensors - before).toBe(0);
  });

  it.each([{}, { keptProbabilities: 0 }])('rotates queries and keys as rotaryEmbedding does, and their gradients back: %o', async (options: { keptProbabilities?: number }) => {
    const [batch, length, heads, groups, size] = [2, 5, 4, 2, 6];
    const operands = [random([batch, length, heads, size], 2), random([batch, length, groups, size], 2), random([batch, length, groups, size]), random([batch, length, heads, size])];
    const angles = random([batch, length, size / 2], Math.PI);
    const [cos, sin] = [Math.cos, Math.sin].map((of) => toTensor({ ...angles, values: angles.values.map(of) }) as Tensor3D);
    const segments = tensor2d([[1, 1, 2, 2, 2], [1, 1, 1, 1, 2]], [batch, length], 'int32');
    const run = (attend: (...qkv: Tensor4D[]) => Tensor): Tensor[] => tidy(() => {
      const [q, k, v, dy] = operands.map(toTensor);
      return [attend(q as Tensor4D, k as Tensor4D, v as Tensor4D), ...grads((...xs: Tensor[]) => attend(...(xs as Tensor4D[])))([q, k, v], dy)];
    });
    const before = memory().numTensors;
    const inside = run((q, k, v) => causalAttention(q, k, v, segments, { ...options, rope: { cos, sin } }));
    const apart = run((q, k, v) => causalAttention(rotaryEmbedding(q, cos, sin), rotaryEmbedding(k, cos, sin), v, segments, options));
    for (const [i, what] of ['value', 'gradient to q', 'gradient to k', 'gradient to v'].entries()) {
      expectClose(await inside[i].data(), await apart[i].data(), tolerance, what);
    }
    for (const tensor of [...inside, ...apart]) tensor.dispose();
    expect(memory().numTensors - before).toBe(0);
  });

  it.each([{ keptProbabilities: 0 }, {}, { rotated: true }])('gives the same gradients from a result that is known: %o', async ({ rotated, ...options }: { keptProbabilities?: number; rotated?: boolean }) => {
    const rope = { cos: toTensor(random([2, 5, 2])) as Tensor3D, sin: toTensor(random([2, 5, 2])) as Tensor3D };
    const [q, k, v, dy] = [[2, 5, 4, 4], [2, 5, 2, 4], [2, 5, 2, 4], [2, 5, 4, 4]].map((shape) => toTensor(random(shape)));
    const segments = tensor2d([[1, 1, 2, 2, 2], [1, 1, 1, 1, 0]], [2, 5], 'int32');
    const attend = (memory: AttentionMemory) => (...[q, k, v]: Tensor[]) => causalAttention(q as Tensor4D, k as Tensor4D, v as Tensor4D, segments, { ...options, ...memory, rope: rotated ? rope : undefined });
    let known: AttentionResult | undefined;
    const out = attend({ onResult: ({ out, state }) => (known = { out: keep(clone(out)), state: keep(state) }) })(q, k, v);
    const again = attend({ known })(q, k, v);
    expect(await again.data()).toEqual(await out.data());
    const [expected, actual] = [{}, { known }].map((memory) => grads(attend(memory))([q, k, v], dy));
    for (const [i, gradient] of actual.entries()) expect(await gradient.data()).toEqual(await expected[i].data());
    expect(known!.out.isDisposed || known!.state.isDisposed).toBe(false);
    dispose([q, k, v, dy, segments, rope.cos, rope.sin, out, again, ...expected, ...actual, known!.out, known!.state]);
  });

  it('stays finite where scores are huge', async () => {
    const big = random([1, 4, 1, 8], 300);
    const segments = [[1, 1, 1, 1]];
    await checkOp({
      operands: { v: random([1, 4, 1, 8]) },
      op: ({ v }) => causalAttention(toTensor(big) as Tensor4D, toTensor(big) as Tensor4D, v as Tensor4D, tensor2d(segments, [1, 4], 'int32')),
      reference: ({ v }) => reference(big.values, big.values, v, segments, { batch: 1, length: 4, heads: 1, groups: 1, size: 8 }),
      tolerance: 10 * tolerance,
    });
  });

  it('names the shapes on a mismatch', () => {
    const segments = tensor2d([[1, 1]], [1, 2], 'int32');
    expect(() => causalAttention(ones([1, 2, 3, 4]), ones([1, 2, 2, 4]), ones([1, 2, 2, 4]), segments)).toThrow('causalAttention: k: expected a number of heads that divides 3, got 2');
    expect(() => causalAttention(ones([1, 2, 3, 4]), ones([1, 2, 1, 8]), ones([1, 2, 1, 8]), segments)).toThrow('causalAttention: k: expected shape [1,2,Hkv,4], got [1,2,1,8]');
    expect(() => causalAttention(ones([1, 2, 2, 4]), ones([1, 2, 2, 4]), ones([1, 2, 1, 4]), segments)).toThrow('causalAttention: v: expected shape [1,2,2,4], got [1,2,1,4]');
    expect(() => causalAttention(ones([1, 2, 2, 4]), ones([1, 2, 2, 4]), ones([1, 2, 2, 4]), segments, { window: 0 })).toThrow('causalAttention: window: expected a positive whole number, got 0');
    const rope = (half: number) => ({ cos: ones([1, 2, half]) as Tensor3D, sin: ones([1, 2, 2]) as Tensor3D });
    expect(() => causalAttention(ones([1, 2, 2, 3]), ones([1, 2, 2, 3]), ones([1, 2, 2, 3]), segments, { rope: rope(1) })).toThrow('causalAttention: q: expected an even D to rotate, got [1,2,2,3]');
    expect(() => causalAttention(ones([1, 2, 2, 4]), ones([1, 2, 2, 4]), ones([1, 2, 2, 4]), segments, { rope: rope(4) })).toThrow('causalAttention: cos: expected shape [1,2,2], got [1,2,4]');
  });
});
