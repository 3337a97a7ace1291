import { util, type TensorInfo } from '@tensorflow/tfjs-core';
import { DropoutMask, type DropoutMaskAttrs } from '../../tensor/dropout-mask.js';
import { RmsNorm, RmsNormGrad, type RmsNormAttrs, type RmsNormGradInputs, type RmsNormInputs } from '../../tensor/rms-norm.js';
import { RotaryEmbedding, type RotaryEmbeddingAttrs, type RotaryEmbeddingInputs } from '../../tensor/rotary-embedding.js';
import { SwiGlu, SwiGluGrad, type SwiGluGradInputs, type SwiGluInputs } from '../../tensor/swi-glu.js';
import { cudaKernel } from '../backend.js';
import { mayBeRoomy, rmsNorm, rmsNormGrad } from '../rms-norm.js';
import { rotated } from '../rotary.js';
import { swiGluGradProgram, swiGluProgram } from '../programs/block-ops.cu.js';
import { dropoutArguments, dropoutProgram } from '../programs/dropout.cu.js';

export const blockOpKernels = [
  cudaKernel<RmsNormInputs, RmsNormAttrs>(RmsNorm, ({ inputs, attrs, backend }) => rmsNorm(backend, inputs, attrs)),
  cudaKernel<RmsNormGradInputs, RmsNormAttrs>(RmsNormGrad, ({ inputs, attrs, backend }) => rmsNormGrad(backend, inputs, attrs)),
  cudaKernel<RotaryEmbeddingInputs, RotaryEmbeddingAttrs>(RotaryEmbedding, ({ inputs: { x, cos, sin }, attrs: { inverse, forAttention }, backend }) => {
    const turned = (input: TensorInfo): TensorInfo => rotated(backend, [input], { cos, sin }, inverse)[0];
    return forAttention ? backend.with('bf16', [x], turned) : turned(x);
  }),
  cudaKernel<SwiGluInputs>(SwiGlu, ({ inputs: { gate, up }, backend }) => {
    const size = util.sizeFromShape(gate.shape), columns = gate.shape.at(-1)!, rows = columns === 0 ? 0 : size / columns, format = backend.format(gate);
    // A linear layer comes next.
    const y = gate.shape.length === 2 && mayBeRoomy(format, columns) ? backend.makeRoomy([rows, columns], SwiGlu) : backend.make(gate.shape, 'float32', format, SwiGlu);
    const { address, stride = columns } = backend.rowsOf(y, rows, columns);
    backend.launch(swiGluProgram(format, backend.format(up), format, size, columns), [{ pointer: address }, backend.pointer(gate), backend.pointer(up), { i64: size }, columns, stride]);
    return y;
  }),
  cudaKernel<SwiGluGradInputs>(SwiGluGrad, ({ inputs: { dy, gate, up }, backend }) => {
    const size = util.sizeFromShape(gate.shape);
    const dGate = backend.make(gate.shape, 'float32', backend.format(gate), SwiGluGrad);
    const dUp = backend.make(up.shape, 'float32', backend.format(up), SwiGluGrad);
    backend.launch(swiGluGradProgram(backend.format(dy), backend.format(gate), backend.format(up), size), [
      backend.pointer(dGate), backend.pointer(dUp), backend.pointer(dy), backend.pointer(gate), backend.pointer(up), { i64: size },
    ]);
    return [dGate, dUp];
  }),
  cudaKernel<object, DropoutMaskAttrs>(DropoutMask, ({ attrs: { shape, rate, key }, backend }) => {
    const size = util.sizeFromShape(shape);
    const mask = backend.make(shape, 'float32', 'f32', DropoutMask);
    backend.launch(dropoutProgram('f32', 'f32', size), [backend.pointer(mask), { pointer: 0 }, { i64: size }, { i64: 0 }, ...dropoutArguments(backend.recording?.drawCell ?? 0, { rate, key })]);
    return mask;
  }),
];
