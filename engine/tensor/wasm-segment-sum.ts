import { registerKernel, util, type TensorInfo } from '@tensorflow/tfjs-core';

/** What this needs of tfjs's WebAssembly backend. */
interface WasmBackend {
  makeOutput(shape: number[], dtype: TensorInfo['dtype']): TensorInfo;
  /** The tensor's values in the module's memory; a view that ends when the memory grows. */
  typedArrayFromHeap(tensor: TensorInfo): Float32Array | Int32Array;
}

/** The kernel that tfjs-backend-wasm 4.22 lacks, and that the gradient of `gather` is made of: rows summed by their segment. */
export function registerWasmSegmentSum(): void {
  registerKernel({
    kernelName: 'UnsortedSegmentSum',
    backendName: 'wasm',
    kernelFunc: ({ inputs, attrs, backend }) => {
      const { x, segmentIds } = inputs as Record<'x' | 'segmentIds', TensorInfo>;
      const { numSegments } = attrs as unknown as { numSegments: number };
      const wasm = backend as WasmBackend;
      const rest = x.shape.slice(1);
      const width = util.sizeFromShape(rest);
      const output = wasm.makeOutput([numSegments, ...rest], x.dtype);
      const [sums, values, ids] = [output, x, segmentIds].map((tensor) => wasm.typedArrayFromHeap(tensor));
      sums.fill(0);
      ids.forEach((segment, row) => {
        if (segment < 0 || segment >= numSegments) return; // TensorFlow drops them too
        for (let i = 0; i < width; i++) sums[segment * width + i] += values[row * width + i];
      });
      return output;
    },
  });
}
