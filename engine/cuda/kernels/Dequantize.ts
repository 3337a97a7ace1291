import { Dequantize, type DequantizeAttrs } from '../../tensor/frozen-weight.js';
import { cudaKernel } from '../backend.js';
import { dequantizeInto } from '../weights.js';

/** Gives bf16, in which the matrix products take it. */
export const dequantizeKernel = cudaKernel<object, DequantizeAttrs>(Dequantize, ({ attrs: { weight }, backend }) => {
  const out = backend.make(weight.shape, 'float32', 'bf16', 'a dequantised matrix');
  dequantizeInto(backend, weight, backend.address(out), 'bf16');
  return out;
});
