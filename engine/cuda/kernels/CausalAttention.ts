import type { TensorInfo } from '@tensorflow/tfjs-core';
import {
  CausalAttention, CausalAttentionGrad, type CausalAttentionAttrs, type CausalAttentionGradInputs, type CausalAttentionInputs,
} from '../../tensor/causal-attention.js';
import { attentionKernels } from '../attention.js';
import { cudaKernel, type CudaBackend } from '../backend.js';
import { strideOf, type MatrixOperand } from '../cublas-lt.js';
import { CudaError } from '../cuda-error.js';
import { attentionBoundsProgram } from '../programs/attention-bounds.cu.js';
import { MAX_HEAD_SIZE, stateLength, type AttentionShape } from '../programs/attention-shape.js';
import { rotated } from '../rotary.js';
import { mayJoin } from '../weights.js';

/** Out in bf16, with room at the ends of its rows, as a linear layer comes next; state: the base-2 log-sum-exp of each row's scaled scores, [B,H,stateLength]. */
export const causalAttentionKernel = cudaKernel<CausalAttentionInputs, CausalAttentionAttrs>(CausalAttention, ({ inputs: { q, k, v, segments, cos, sin }, attrs: { window }, backend }) => {
  const shape = shapeOf(q.shape, k.shape);
  const out = outputOf(backend, q.shape);
  const state = backend.make([shape.batch, shape.heads, stateLength(shape.length)], 'float32', 'f32', "attention's log-sums");
  const bounds = boundsOf(backend, segments, shape, window);
  return backend.with('bf16', [q, k, v], (queries, keys, values) => {
    const turned = cos && sin ? rotated(backend, [queries, keys], { cos, sin }) : [];
    const [q, k, v] = [turned[0] ?? queries, turned[1] ?? keys, values].map((operand) => backend.address(operand));
    attentionKernels(backend.device, shape).forward(shape, { q, k, v, ...placeOf(positionRows(backend, out)), logSum: backend.address(state), bounds });
    return [out, state, ...turned];
  });
});

export const causalAttentionGradKernel = cudaKernel<CausalAttentionGradInputs, CausalAttentionAttrs>(CausalAttentionGrad, ({ inputs, attrs: { window, fromLinears = false }, backend }) => {
  const { dy, out, q, k, v, segments, state, cos, sin } = inputs;
  const shape = { ...shapeOf(q.shape, k.shape), rotated: cos !== undefined };
  const gradients = gradientsOf(backend, [q, k, v].map((info) => info.shape), fromLinears);
  const bounds = boundsOf(backend, segments, shape, window);
  backend.with('bf16', [dy, q, k, v, out], (...infos) =>
    backend.scratch(4 * shape.batch * shape.heads * stateLength(shape.length), "attention's row products", (delta) => {
      const [dOut, q, k, v] = infos.slice(0, 4).map((info) => backend.address(info));
      const [dq, dk, dv] = gradients.map((info) => positionRows(backend, info));
      const [cosines, sines] = [cos, sin].map((info) => (info ? backend.address(info) : 0));
      const operands = {
        dOut, ...placeOf(positionRows(backend, infos[4])), q, k, v, logSum: backend.address(state), bounds,
        dq: dq.address, dk: dk.address, dv: dv.address, dqStride: strideOf(dq), dkvStride: strideOf(dk), delta, cos: cosines, sin: sines,
      };
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

/** The gradients [B,T,H,D]: side by side where layers may take them in one product. */
function gradientsOf(backend: CudaBackend, shapes: readonly number[][], fromLinears: boolean): TensorInfo[] {
  const [[batch, length]] = shapes, widths = shapes.map(([, , heads, headSize]) => heads * headSize), purpose = "attention's gradient";
  const isJoined = fromLinears && widths.every((width) => width % 8 === 0) && mayJoin(backend, widths, batch * length); // branches' kernels read eight values at a time
  if (!isJoined) return shapes.map((shape) => backend.make(shape, 'float32', 'bf16', purpose));
  return backend.makeColumns(batch * length, widths, purpose).map((info, i) => ({ ...info, shape: shapes[i] }));
}

/** [B,T,H,D] as a matrix of positions. */
const positionRows = (backend: CudaBackend, info: TensorInfo): MatrixOperand => {
  const [batch, length, heads, headSize] = info.shape;
  return backend.rowsOf(info, batch * length, heads * headSize);
};

const placeOf = (rows: MatrixOperand): { out: number; outStride: number } => ({ out: rows.address, outStride: strideOf(rows) });

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
