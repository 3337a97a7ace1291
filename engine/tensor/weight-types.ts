import type { Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';

interface Matrix {
  /** [out, in]: a linear layer's weight, as y = x·Wᵀ uses it. */
  shape: [number, number];
  /** The dequantised float32 copy, where memory is traded for speed. Same numbers. */
  resident?: Tensor2D;
  /** [out]: the squared lengths of the rows, once they were asked for. */
  rowSquares?: Tensor1D;
}
/** float32, or rounded to bfloat16 and kept in float32. */
export interface DenseWeight extends Matrix {
  kind: 'dense';
  value: Tensor2D;
  /** The value is a variable that gradients flow to: see `adaptedLinear`, `embedding` and `headCrossEntropy`. @default false */
  trained?: boolean;
}
/** NF4 in blocks of 64 along the flattened matrix. */
export interface Nf4Weight extends Matrix {
  kind: 'nf4';
  /** int32 words of 8 codes: bitsandbytes' bytes (earlier value in the high half), padded with zeros to whole blocks. */
  codes: Tensor1D;
  absmax: { nested: false; values: Tensor1D } | NestedTensors;
}
/** Block scales in 8 bits: scale = levels[code] × absmax[block of 256] + offset. */
export interface NestedTensors {
  nested: true;
  /** int32 words of 4 unsigned codes, padded with zeros to whole blocks of 256. */
  codes: Tensor1D;
  absmax: Tensor1D;
  offset: number;
}
/** int8 with one scale a row: value = code × absmax[row] / 127. */
export interface Int8Weight extends Matrix {
  kind: 'int8';
  /** int32 words of 4 signed codes, row-major, padded with zeros. */
  codes: Tensor1D;
  /** [out]. */
  absmax: Tensor1D;
}
/** A matrix that is never trained. Its tensors live until `disposeWeight`, also through a tidy. */
export type FrozenWeight = DenseWeight | Nf4Weight | Int8Weight;
