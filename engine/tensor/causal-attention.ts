import {
  add, cast, clone, concat, equal, expandDims, greater, lessEqual, logicalAnd, matMul, mul, range, reshape, slice, softmax, sub, sum, tensor1d, tidy, transpose,
  type Tensor, type Tensor2D, type Tensor3D, type Tensor4D,
} from '@tensorflow/tfjs-core';
import { differentiable, registerPortableKernel, runKernel, type Inputs } from './kernel.js';
import { rotate, RotaryEmbedding } from './rotary-embedding.js';
import { expectShape, shapeError, shapeText } from './shape-error.js';

/**
 * Kernel: { q [B,T,H,D], k, v [B,T,Hkv,D], segments int32 [B,T], cos, sin [B,T,D/2] or absent } → [out [B,T,H,D], state]. `state` is what
 * the backend's own backward kernel needs beside its inputs and `out`: the composed kernel keeps the probabilities, a fused one
 * log-sum-exps. With angles q and k are rotated first, and the rotated ones are results too: [out, state, q, k].
 */
export const CausalAttention = 'TemperCausalAttention';
export interface CausalAttentionInputs extends Inputs {
  q: Tensor4D;
  k: Tensor4D;
  v: Tensor4D;
  segments: Tensor2D;
  cos?: Tensor3D;
  sin?: Tensor3D;
}
export interface CausalAttentionAttrs {
  /** For a kernel that makes the probabilities: how many of them it may keep for the backward pass. */
  keptProbabilities: number;
  /** A query sees the last `window` positions of its segment alone, its own included. @default all of them */
  window?: number;
  /** q, k and v come as layers of one input gave them: a backend may lay their gradients out for those layers' products. @default false */
  fromLinears?: boolean;
}
export interface CausalAttentionOptions extends Partial<CausalAttentionAttrs> {
  /** Angles that q and k are rotated by first, as `rotaryEmbedding` has them: [B, T, D/2]; no gradient flows to them. @default none: q and k come as they are to be used */
  rope?: { cos: Tensor3D; sin: Tensor3D };
}
/** Kernel: { dy, out [B,T,H,D], q, k, v, segments, state, cos, sin } → [dQ, dK, dV]. With angles q and k are the rotated ones, dQ and dK are rotated back. */
export const CausalAttentionGrad = 'TemperCausalAttentionGrad';
export interface CausalAttentionGradInputs extends CausalAttentionInputs {
  dy: Tensor4D;
  out: Tensor4D;
  state: Tensor;
}

/** What the forward kernel makes. */
export interface AttentionResult {
  out: Tensor4D;
  state: Tensor;
}

/** For a forward pass that is run again: what attention made the first time need not be made anew. */
export interface AttentionMemory {
  /** Is told of what was made, which is disposed unless kept. */
  onResult?: (result: AttentionResult) => void;
  /** What `onResult` was told of by a call with the same operands. It stays the caller's. */
  known?: AttentionResult;
}

/**
 * softmax(q·kᵀ / sqrt(D))·v, causal and only within a segment, so that packed rows do not see each other. Query head h reads
 * key head floor(h / (H / Hkv)).
 * @param q [B, T, H, D]
 * @param k, v [B, T, Hkv, D], H a multiple of Hkv
 * @param segments int32 [B, T]: neighbours with one number are one row, and no row has its number twice; padding (0) is seen by no row, and
 *   its own output is finite and otherwise undefined
 * @param options.keptProbabilities above this many in all (B·H·T²), a backend that has no fused kernel goes through the batch row by
 *   row and computes them again in the backward pass @default 2^24 (64 MiB)
 * @param options.rope q and k are rotated within the op, and their gradients back
 * @param options.window a query sees the keys at most `window` - 1 positions before its own, as in transformers' sliding-window
 *   attention @default all of its segment's past
 * @param options.fromLinears q, k and v come as layers of one input gave them, nothing between @default false
 * @param options.onResult, options.known see `AttentionMemory`
 * @returns [B, T, H, D]
 */
export function causalAttention(
  q: Tensor4D,
  k: Tensor4D,
  v: Tensor4D,
  segments: Tensor2D,
  { keptProbabilities = 2 ** 24, window, fromLinears, rope, onResult, known }: CausalAttentionOptions & AttentionMemory = {},
): Tensor4D {
  if (q.rank !== 4) throw shapeError(`causalAttention: q: expected [B,T,H,D], got ${shapeText(q)}`);
  const [batch, length, heads, size] = q.shape;
  expectShape('causalAttention', 'k', k, [batch, length, 'Hkv', size]);
  expectShape('causalAttention', 'v', v, k.shape);
  expectShape('causalAttention', 'segments', segments, [batch, length]);
  if (heads % k.shape[2]) throw shapeError(`causalAttention: k: expected a number of heads that divides ${heads}, got ${k.shape[2]}`);
  if (window !== undefined && !(Number.isSafeInteger(window) && window > 0)) throw shapeError(`causalAttention: window: expected a positive whole number, got ${window}`);
  if (rope && size % 2) throw shapeError(`causalAttention: q: expected an even D to rotate, got ${shapeText(q)}`);
  for (const name of ['cos', 'sin'] as const) if (rope) expectShape('causalAttention', name, rope[name], [batch, length, size / 2]);
  // A window that covers every position hides nothing.
  const attrs: CausalAttentionAttrs = { keptProbabilities, window: window !== undefined && window < length ? window : undefined, fromLinears };
  return differentiable<Tensor4D>(
    { q, k, v },
    (save) => {
      const [out, state, queries = q, keys = k] = known
        ? [clone(known.out), known.state, ...(rope ? [q, k].map((x) => runKernel<Tensor4D>(RotaryEmbedding, { x, ...rope }, { inverse: false, forAttention: true })) : [])]
        : runKernel<[Tensor4D, Tensor, ...Tensor4D[]]>(CausalAttention, { q, k, v, segments, ...rope }, attrs);
      onResult?.({ out, state });
      save([queries, keys, v, segments, out, state, ...(rope ? [rope.cos, rope.sin] : [])]);
      return out;
    },
    (dy, [q, k, v, segments, out, state, cos, sin]) => {
      const [dq, dk, dv] = runKernel<Tensor[]>(CausalAttentionGrad, { dy, out, q, k, v, segments, state, cos, sin }, attrs);
      return { q: () => dq, k: () => dk, v: () => dv };
    },
  );
}

/** Added to a score that must not count; exp of it is 0 in float32. */
const hidden = -1e9;

registerPortableKernel<CausalAttentionInputs, CausalAttentionAttrs>(CausalAttention, ({ q, k, v, segments, cos, sin }, attrs) => {
  if (!cos || !sin) return attendAll(q, k, v, segments, attrs);
  const [queries, keys] = [q, k].map((x) => rotate(x, cos, sin, false));
  return [...attendAll(queries, keys, v, segments, attrs), queries, keys];
});

/** [out, state]. */
function attendAll(q: Tensor4D, k: Tensor4D, v: Tensor4D, segments: Tensor, { keptProbabilities, window }: CausalAttentionAttrs): [Tensor4D, Tensor] {
  const [batch, length, heads] = q.shape;
  if (batch * heads * length ** 2 <= keptProbabilities) return attend(q, k, v, segments, window);
  const rows = eachRow([q, k, v, segments], (row) => attend(row[0], row[1], row[2], row[3], window)[0]);
  return [concat(rows, 0), tensor1d([])];
}

registerPortableKernel<CausalAttentionGradInputs, CausalAttentionAttrs>(CausalAttentionGrad, (inputs, attrs) => {
  const { cos, sin } = inputs;
  const [dq, dk, dv] = attendAllGrad(inputs, attrs);
  return cos && sin ? [rotate(dq, cos, sin, true), rotate(dk, cos, sin, true), dv] : [dq, dk, dv];
});

/** [dQ, dK, dV]. */
function attendAllGrad({ dy, out, q, k, v, segments, state }: CausalAttentionGradInputs, { window }: CausalAttentionAttrs): Tensor[] {
  if (state.size > 0) return attendGrad(dy, out, q, k, v, state);
  const rows = eachRow([dy, out, q, k, v, segments], ([dy, out, q, k, v, segments]) =>
    attendGrad(dy, out, q, k, v, attend(q, k, v, segments, window)[1]));
  return [0, 1, 2].map((operand) => concat(rows.map((row) => row[operand]), 0));
}

/** Calls `compute` with each row of the batch, as batches of one. */
function eachRow<T extends Tensor | Tensor[]>(batches: Tensor[], compute: (row: Tensor4D[]) => T): T[] {
  return Array.from({ length: batches[0].shape[0] }, (_, b) =>
    tidy(() => compute(batches.map((x) => slice(x, [b, ...x.shape.slice(1).fill(0)], [1, ...x.shape.slice(1)]) as Tensor4D))));
}

/** [out, probabilities [B,H,T,T]]. */
function attend(q: Tensor4D, k: Tensor4D, v: Tensor4D, segments: Tensor, window?: number): [Tensor4D, Tensor] {
  const [batch, length, heads, size] = q.shape;
  const groups = k.shape[2];
  const queries = mul(groupHeads(q, groups), 1 / Math.sqrt(size));
  const scores = reshape(matMul(queries, groupHeads(k, groups), false, true), [batch, heads, length, length]);
  const probabilities = softmax(add(scores, scoreMask(segments, window)));
  const out = matMul(reshape(probabilities, [batch, groups, (heads / groups) * length, length]), groupHeads(v, groups));
  return [ungroupHeads(out, heads), probabilities];
}

/** [dQ, dK, dV]. */
function attendGrad(dy: Tensor4D, out: Tensor4D, q: Tensor4D, k: Tensor4D, v: Tensor4D, state: Tensor): Tensor4D[] {
  const [batch, length, heads, size] = q.shape;
  const groups = k.shape[2];
  const scale = 1 / Math.sqrt(size);
  const probabilities = reshape(state, [batch, groups, (heads / groups) * length, length]);
  const dOut = groupHeads(dy, groups);
  const dProbabilities = matMul(dOut, groupHeads(v, groups), false, true);
  // Rows of the softmax's Jacobian: dS = P·(dP - Σ dP·P), and Σ dP·P = Σ dOut·out.
  const rowSums = sum(mul(dOut, groupHeads(out, groups)), -1, true);
  const dScores = mul(probabilities, sub(dProbabilities, rowSums));
  const dQueries = mul(matMul(dScores, groupHeads(k, groups)), scale);
  const dKeys = matMul(dScores, mul(groupHeads(q, groups), scale), true, false);
  const dValues = matMul(probabilities, dOut, true, false);
  return [ungroupHeads(dQueries, heads), ungroupHeads(dKeys, groups), ungroupHeads(dValues, groups)];
}

/** [B,T,H,D] → [B, groups, (H/groups)·T, D]: the heads that share a key head become one long matrix. */
function groupHeads(x: Tensor4D, groups: number): Tensor4D {
  const [batch, length, heads, size] = x.shape;
  return reshape(transpose(x, [0, 2, 1, 3]), [batch, groups, (heads / groups) * length, size]);
}

function ungroupHeads(x: Tensor, heads: number): Tensor4D {
  const [batch, groups, rows, size] = x.shape;
  return transpose(reshape(x, [batch, heads, (groups * rows) / heads, size]), [0, 2, 1, 3]);
}

/** [B,1,T,T]: 0 where a query may look, else a large negative number. */
function scoreMask(segments: Tensor, window?: number): Tensor {
  const length = segments.shape[1]!;
  const positions = range(0, length, 1, 'int32');
  const [keys, queries] = [expandDims(positions, 0), expandDims(positions, 1)];
  const past = lessEqual(keys, queries);
  const visible = window === undefined ? past : logicalAnd(past, greater(keys, sub(queries, window)));
  const together = equal(expandDims(segments, 1), expandDims(segments, 2));
  return expandDims(mul(sub(1, cast(logicalAnd(together, visible), 'float32')), hidden), 1);
}
