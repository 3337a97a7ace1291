import { util, type TensorInfo } from '@tensorflow/tfjs-core';
import { DropoutMask, type DropoutMaskAttrs } from '../../tensor/dropout-mask.js';
import { RmsNorm, RmsNormGrad, type RmsNormAttrs, type RmsNormGradInputs, type RmsNormInputs } from '../../tensor/rms-norm.js';
import { RotaryEmbedding, type RotaryEmbeddingAttrs, type RotaryEmbeddingInputs } from '../../tensor/rotary-embedding.js';
import { SwiGlu, SwiGluGrad, type SwiGluGradInputs, type SwiGluInputs } from '../../tensor/swi-glu.js';
import { cudaKernel, type CudaBackend } from '../backend.js';
import type { Format } from '../program.js';
import { rotated } from '../rotary.js';
import { rmsNormGradProgram, rmsNormProgram, swiGluGradProgram, swiGluProgram } from '../programs/block-ops.cu.js';
import { dropoutArguments, dropoutProgram } from '../programs/dropout.cu.js';

/** Whether a result may have room at the ends of its rows. */
const mayBeRoomy = (format: Format, columns: number): boolean => format === 'bf16' && columns % 8 === 0;

export function rmsNorm(backend: CudaBackend, { x, weight }: { x: TensorInfo; weight: TensorInfo }, { eps, forLinears }: RmsNormAttrs): TensorInfo {
  const [rows, columns] = x.shape, format = backend.format(x);
  const y = forLinears && mayBeRoomy(format, columns) ? backend.makeRoomy([rows, columns], RmsNorm) : backend.make(x.shape, 'float32', format, RmsNorm);
  const { address, stride = columns } = backend.rowsOf(y, rows, columns);
  backend.launch(rmsNormProgram(format, backend.format(weight), rows, columns), [{ pointer: address }, backend.pointer(x), backend.pointer(weight), columns, stride, { f32: eps }]);
  return y;
}

export function rmsNormGrad(backend: CudaBackend, { dy, x, weight, skip }: { dy: TensorInfo; x: TensorInfo; weight: TensorInfo; skip?: TensorInfo }, { eps }: RmsNormAttrs): TensorInfo {
  const [rows, columns] = x.shape;
  const dx = backend.make(x.shape, 'float32', backend.format(x), RmsNormGrad);
  backend.launch(rmsNormGradProgram(backend.format(x), backend.format(dy), backend.format(weight), skip && backend.format(skip), rows, columns), [
    backend.pointer(dx), backend.pointer(dy), backend.pointer(x), backend.pointer(weight), skip ? backend.pointer(skip) : { pointer: 0 }, columns, { f32: eps },
  ]);
  return dx;
}

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
