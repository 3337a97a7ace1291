import { util, type TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend } from './backend.js';
import type { KernelArgument } from './program.js';
import { rotaryProgram } from './programs/block-ops.cu.js';

/** One or two tensors [B,T,H,D] of one format, rotated by their positions' angles [B,T,D/2] in one launch. @param inverse by the negative angles @default false */
export function rotated(backend: CudaBackend, xs: readonly TensorInfo[], { cos, sin }: { cos: TensorInfo; sin: TensorInfo }, inverse = false): TensorInfo[] {
  const sizes = xs.map(({ shape }) => util.sizeFromShape(shape)), format = backend.format(xs[0]), half = xs[0].shape[3] / 2;
  const ys = xs.map(({ shape }) => backend.make(shape, 'float32', format, 'rotated values'));
  backend.launch(rotaryProgram(format, sizes, half), [
    backend.pointer(cos), backend.pointer(sin), half, { f32: inverse ? -1 : 1 },
    ...xs.flatMap((x, i): KernelArgument[] => [backend.pointer(ys[i]), backend.pointer(x), { i64: sizes[i] / 2 }, x.shape[2]]),
  ]);
  return ys;
}
