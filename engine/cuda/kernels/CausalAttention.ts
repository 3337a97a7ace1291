import {
  CausalAttention, CausalAttentionGrad, type CausalAttentionGradInputs, type CausalAttentionInputs,
} from '../../tensor/causal-attention.js';
import { cudaKernel, type CudaBackend } from '../backend.js';
import { CudaError } from '../cuda-error.js';
import {
  attentionDeltaProgram, attentionKeyGradientProgram, attentionProgram, attentionQueryGradientProgram, MAX_HEAD_SIZE, segmentBoundsProgram, type AttentionShape,
} from '../programs/attention.cu.js';

/** Out in bf16; state: the base-2 log-sum-exp of each row's scaled scores, [B,H,T]. */
export const causalAttentionKernel = cudaKernel<CausalAttentionInputs>(CausalAttention, ({ inputs: { q, k, v, segments }, backend }) => {
  const shape = shapeOf(q.shape, k.shape);
  const { batch, length, heads, kvHeads, headSize } = shape;
  const out = backend.make(q.shape, 'float32', 'bf16', "attention's output");
  const state = backend.make([batch, heads, length], 'float32', 'f32', "attention's log-sums");
  backend.with('bf16', [q, k, v], (q, k, v) =>
    backend.launch(attentionProgram(shape), [
      backend.pointer(out), backend.pointer(state), backend.pointer(q), backend.pointer(k), backend.pointer(v),
      backend.pointer(segments), bounds(backend, segments, shape), length, heads, kvHeads, { f32: 1 / Math.sqrt(headSize) },
    ]));
  return [out, state];
});

export const causalAttentionGradKernel = cudaKernel<CausalAttentionGradInputs>(CausalAttentionGrad, ({ inputs: { dy, out, q, k, v, segments, state }, backend }) => {
  const shape = shapeOf(q.shape, k.shape);
  const { batch, length, heads, kvHeads, headSize } = shape;
  const [dq, dk, dv] = [q, k, v].map((info) => backend.make(info.shape, 'float32', 'bf16', "attention's gradient"));
  const rows = batch * heads * length;
  const scale = { f32: 1 / Math.sqrt(headSize) };
  backend.with('bf16', [dy, out, q, k, v], (dy, out, q, k, v) =>
    backend.scratch(4 * rows, "attention's row products", (delta) => {
      backend.launch(attentionDeltaProgram(shape), [{ pointer: delta }, backend.pointer(out), backend.pointer(dy), length, heads, { i64: rows }]);
      const operands = [
        backend.pointer(dy), backend.pointer(q), backend.pointer(k), backend.pointer(v), backend.pointer(state), { pointer: delta },
        backend.pointer(segments), bounds(backend, segments, shape), length, heads, kvHeads,
      ];
      backend.launch(attentionQueryGradientProgram(shape), [backend.pointer(dq), ...operands, scale]);
      backend.launch(attentionKeyGradientProgram(shape), [backend.pointer(dk), backend.pointer(dv), ...operands, batch, scale]);
    }));
  return [dq, dk, dv];
});

/** First and last position of each position's segment: the same for all layers of a step, so kept with the segments. */
function bounds(backend: CudaBackend, segments: CausalAttentionInputs['segments'], { batch, length }: AttentionShape): { pointer: number } {
  const block = backend.companion(segments, "segments' bounds", 8 * batch * length, ({ address }) =>
    backend.launch(segmentBoundsProgram({ batch, length }), [{ pointer: address }, backend.pointer(segments), length, batch]));
  return { pointer: block.address };
}

function shapeOf([batch, length, heads, headSize]: number[], key: number[]): AttentionShape {
  if (headSize > MAX_HEAD_SIZE || headSize % 2) {
    throw new CudaError('bad_head_size', `causalAttention: expected an even head size up to ${MAX_HEAD_SIZE}, got ${headSize}`);
  }
  return { batch, length, heads, kvHeads: key[2], headSize };
}
