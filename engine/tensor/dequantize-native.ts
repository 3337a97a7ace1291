import { add, mul, reshape, slice, tensor1d, tensor2d, util, type Tensor, type Tensor2D } from '@tensorflow/tfjs-core';
import { dynamicLevels } from '../quant/dynamic-levels.js';
import { nestedBlock } from '../quant/nested-absmax.js';
import { nf4Block, nf4Levels } from '../quant/nf4.js';
import { bytesOf, gatherRows } from './tensorflow-native.js';
import type { Int8Weight, Nf4Weight } from './weight-types.js';

/** One lookup gives both values of a byte: [256, 2]. */
const levelPairs = Float32Array.from({ length: 512 }, (_, i) => nf4Levels[i % 2 ? (i >> 1) & 15 : i >> 5]);

/** The int8 that a byte stands for. */
const signedBytes = Float32Array.from({ length: 256 }, (_, byte) => (byte << 24) >> 24);

/** NF4 → float32 in TensorFlow's own ops: the codes stay where they are. */
export function dequantizeNf4Native({ shape, codes, absmax }: Nf4Weight): Tensor2D {
  const blocks = Math.ceil(util.sizeFromShape(shape) / nf4Block);
  const pairs = gatherRows(tensor2d(levelPairs, [256, 2]), bytesOf(codes));
  const scales = absmax.nested ? denest(absmax.codes, absmax.absmax, absmax.offset, blocks) : absmax.values;
  return firstOf(mul(reshape(pairs, [blocks, nf4Block]), reshape(scales, [blocks, 1])), shape);
}

/** int8 → float32 in TensorFlow's own ops. */
export function dequantizeInt8Native({ shape, codes, absmax }: Int8Weight): Tensor2D {
  const values = firstOf(gatherRows(tensor1d(signedBytes), bytesOf(codes)), shape);
  // In this order, as bitsandbytes rounds.
  return mul(mul(values, reshape(absmax, [shape[0], 1])), Math.fround(1 / 127));
}

function denest(codes: Tensor, absmax: Tensor, offset: number, blocks: number): Tensor {
  const levels = gatherRows(tensor1d(dynamicLevels), bytesOf(codes));
  const scales = add(mul(reshape(levels, [absmax.size, nestedBlock]), reshape(absmax, [absmax.size, 1])), offset);
  return slice(reshape(scales, [-1]), 0, blocks);
}

/** Drops the padding behind the matrix. */
function firstOf(padded: Tensor, shape: [number, number]): Tensor2D {
  const count = util.sizeFromShape(shape);
  return padded.size === count ? reshape(padded, shape) : reshape(slice(reshape(padded, [-1]), 0, count), shape);
}
