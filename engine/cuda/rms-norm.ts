import type { TensorInfo } from '@tensorflow/tfjs-core';
import { RmsNorm, RmsNormGrad, type RmsNormAttrs } from '../tensor/rms-norm.js';
import type { CudaBackend } from './backend.js';
import type { Format } from './program.js';
import { rmsNormGradProgram, rmsNormProgram } from './programs/block-ops.cu.js';

/** Whether a result may have room at the ends of its rows. */
export const mayBeRoomy = (format: Format, columns: number): boolean => format === 'bf16' && columns % 8 === 0;

/** x [n, columns] by its rows' root mean squares and the weight; with room where linear layers come next. */
export function rmsNorm(backend: CudaBackend, { x, weight }: { x: TensorInfo; weight: TensorInfo }, { eps, forLinears }: RmsNormAttrs): TensorInfo {
  const [rows, columns] = x.shape, format = backend.format(x);
  const y = forLinears && mayBeRoomy(format, columns) ? backend.makeRoomy([rows, columns], RmsNorm) : backend.make(x.shape, 'float32', format, RmsNorm);
  const { address, stride = columns } = backend.rowsOf(y, rows, columns);
  backend.launch(rmsNormProgram(format, backend.format(weight), rows, columns), [{ pointer: address }, backend.pointer(x), backend.pointer(weight), columns, stride, { f32: eps }]);
  return y;
}

/** The gradient to x, added to `skip` where there is one. */
export function rmsNormGrad(backend: CudaBackend, { dy, x, weight, skip }: { dy: TensorInfo; x: TensorInfo; weight: TensorInfo; skip?: TensorInfo }, { eps }: RmsNormAttrs): TensorInfo {
  const [rows, columns] = x.shape;
  const dx = backend.make(x.shape, 'float32', backend.format(x), RmsNormGrad);
  backend.launch(rmsNormGradProgram(backend.format(x), backend.format(dy), backend.format(weight), skip && backend.format(skip), rows, columns), [
    backend.pointer(dx), backend.pointer(dy), backend.pointer(x), backend.pointer(weight), skip ? backend.pointer(skip) : { pointer: 0 }, columns, { f32: eps },
  ]);
  return dx;
}
