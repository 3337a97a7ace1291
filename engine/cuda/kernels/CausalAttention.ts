import type { TensorInfo } from '@tensorflow/tfjs-core';
import {
  CausalAttention, CausalAttentionGrad, type CausalAttentionAttrs, type CausalAttentionGradInputs, type CausalAttentionInputs,
} from '../../tensor/causal-attention.js';
import { attentionKernels } from '../attention.js';
import { cudaKernel, type CudaBackend } from '../backend.js';
import type { MatrixOperand } from '../cublas-lt.js';
import { CudaError } from '../cuda-error.js';
import { attentionBoundsProgram } from '../programs/attention-bounds.cu.js';
import { MAX_HEAD_SIZE, stateLength, type AttentionShape } from '../programs/attention-shape.js';
import { rotated } from '../rotary.js';

/** Out in bf16, with room at the ends of its rows, as a linear layer comes next; state: the base-2 log-sum-exp of each row's scaled scores, [B,H,stateLength]. */
export const causalAttentionKernel = cudaKernel<CausalAttentionInputs, CausalAttentionAttrs>(CausalAttention, ({ inputs: { q, k, v, segments, cos, sin }, attrs: { window }, backend }) => {
  const shape = shapeOf(q.shape, k.shape);
  const out = outputOf(backend, q.shape);
  const state = backend.make([shape.batch, shape.heads, stateLength(shape.length)], 'float32', 'f32', "attention's log-sums");
  const bounds = boundsOf(backend, segments, shape, window);
  return backend.with('bf16', [q, k, v], (queries, keys, values) => {
    const turned = cos && sin ? rotated(backend, [queries, keys], { cos, sin }) : [];
    const [q, k, v] = [turned[0] ?? queries, turned[1] ?? keys, values].map((operand) => backend.address(operand));
    attentionKernels(backend.device, shape).forward(shape, { q, k, v, ...placeOf(outputRows(backend, out)), logSum: backend.address(state), bounds });
    return [out, state, ...turned];
  });
});

export const causalAttentionGradKernel = cudaKernel<CausalAttentionGradInputs, CausalAttentionAttrs>(CausalAttentionGrad, ({ inputs: { dy, out, q, k, v, segments, state, cos, sin }, attrs: { window }, backend }) => {
  const shape = { ...shapeOf(q.shape, k.shape), rotated: cos !== undefined };
  const gradients = [q, k, v].map((info) => backend.make(info.shape, 'float32', 'bf16', "attention's gradient"));
  const bounds = boundsOf(backend, segments, shape, window);
  backend.with('bf16', [dy, q, k, v, out], (...infos) =>
    backend.scratch(4 * shape.batch * shape.heads * stateLength(shape.length), "attention's row products", (delta) => {
      const [dOut, q, k, v] = infos.slice(0, 4).map((info) => backend.address(info));
      const [dq, dk, dv] = gradients.map((info) => backend.address(info));
      const [cosines, sines] = [cos, sin].map((info) => (info ? backend.address(info) : 0));
      const operands = { dOut, ...placeOf(outputRows(backend, infos[4])), q, k, v, logSum: backend.address(state), bounds, dq, dk, dv, delta, cos: cosines, sin: sines };
      const kernels = attentionKernels(backend.device, shape);
      kernels.queryGradient(shape, operands);
      kernels.keyGradient(shape, operands);
    }));
  return gradients;
});

/** The output [B,T,H,D]; its rows have room where a linear layer can use it. */
function outputOf(backend: CudaBackend, shape: number[]): TensorInfo {
  const [batch, length, heads, headSize] = shape, columns = heads * headSize;
  return columns % 8 === 0 ? { ...backend.makeRoomy([batch * length, columns], "attention's output"), shape } : backend.make(shape, 'float32', 'bf16', "attention's output");
}

/** [B,T,H,D] as a matrix of positions. */
const outputRows = (backend: CudaBackend, out: TensorInfo): MatrixOperand => {
  const [batch, length, heads, headSize] = out.shape;
  return backend.rowsOf(out, batch * length, heads * headSize);
};

const placeOf = ({ address, columns, stride = columns }: MatrixOperand): { out: number; outStride: number } => ({ out: address, outStride: stride });

/** What each position sees: the same for all layers of a step with one window, so kept with the segments. */
function boundsOf(backend: CudaBackend, segments: CausalAttentionInputs['segments'], { batch, length }: AttentionShape, window = length): number {
  return backend.companion(segments, `segments' bounds, window ${window}`, 8 * batch * length, ({ address }) =>
    backend.launch(attentionBoundsProgram({ batch }), [{ pointer: address }, backend.pointer(segments), length, batch, window])).address;
}

function shapeOf([batch, length, heads, headSize]: number[], key: number[]): AttentionShape {
  if (headSize > MAX_HEAD_SIZE || headSize % 2) {
    throw new CudaError('bad_head_size', `causalAttention: expected an even head size up to ${MAX_HEAD_SIZE}, got ${headSize}`);
  }
  return { batch, length, heads, kvHeads: key[2], headSize };
}
