import * as tf from '@tensorflow/tfjs-core';
import { variable, zeros, type Tensor, type Variable } from '@tensorflow/tfjs-core';
import { adamW, createAdamW } from '../../../engine/tensor/adam-w.js';
import { withGradients, type GpuCase, type Random } from './compare.js';

const exact = 1e-6;
const one = (name: string, run: (random: Random) => Tensor | Tensor[], tolerance = exact): GpuCase => ({ name, tolerance, run: (random) => [run(random)].flat() });
const shapes = (random: Random) => ({ m: random.tensor<tf.Tensor2D>([5, 33]), row: random.tensor<tf.Tensor1D>([33]), column: random.tensor<tf.Tensor2D>([5, 1]), t: random.tensor<tf.Tensor3D>([2, 5, 33]) });

/** The tfjs ops that model, trainer and generator use, on float32, int32 and bool. */
export const genericCases: GpuCase[] = [
  one('add, sub, mul, div with broadcasting', (r) => { const { m, row, column, t } = shapes(r); return [tf.add(m, row), tf.sub(t, m), tf.mul(column, row), tf.div(m, tf.add(tf.abs(column), 1)), tf.add(m, 2), tf.sub(1, m), tf.add(m, m)]; }),
  one('integers stay integers', (r) => { const a = r.integers([40], 1000), b = r.integers([40], 7); return [tf.add(a, b), tf.mul(a, b), tf.maximum(a, b), tf.sum(a), tf.cast(tf.equal(b, 3), 'int32')]; }, 0),
  one('comparisons and logic', (r) => { const { m, row } = shapes(r); return [tf.less(m, row), tf.lessEqual(m, m), tf.logicalAnd(tf.greater(m, 0), tf.less(row, 0)), tf.logicalNot(tf.equal(m, m)), tf.where(tf.greater(m, 0), m, tf.mul(m, 2)), tf.isNaN(m)].map((x) => tf.cast(x, 'float32')); }),
  one('sqrt, rsqrt, square, exp, log, sigmoid, neg, abs, tanh', (r) => { const x = tf.add(tf.abs(shapes(r).m), 0.1); return [tf.sqrt(x), tf.rsqrt(x), tf.square(x), tf.exp(x), tf.log(x), tf.sigmoid(x), tf.neg(x), tf.tanh(x), tf.clipByValue(x, 0.2, 0.5), tf.pow(x, 3)]; }, 1e-5),
  one('sum, mean, max, min, argMax over axes', (r) => { const { t } = shapes(r); return [tf.sum(t), tf.sum(t, 0), tf.sum(t, [0, 2], true), tf.mean(t, -1), tf.max(t, 1), tf.min(t), tf.argMax(t, 2), tf.argMin(t, 0), tf.sum(r.tensor([3, 5000]), 1), tf.max(r.tensor([2, 3000]), 1), tf.argMax(r.tensor([2, 3000]), 1)]; }, 1e-5),
  one('all, any', (r) => { const { m } = shapes(r); return [tf.all(tf.greater(m, -2)), tf.any(tf.greater(m, 0.99), 1)].map((x) => tf.cast(x, 'float32')); }),
  one('softmax, logSoftmax', (r) => [tf.softmax(r.tensor([4, 301], 5)), tf.logSoftmax(r.tensor([4, 31], 5))], 1e-5),
  one('concat, split, stack, unstack, slice, strided slice, pad by concat', (r) => { const { m, t } = shapes(r); return [tf.concat([m, m], 0), tf.concat([m, tf.slice(m, [0, 3], [5, 4])], 1), ...tf.split(t, [2, 3], 1), tf.stack([m, m], 1), ...tf.unstack(t, 0), tf.slice(t, [1, 0, 5], [1, 3, -1]), tf.slice(m, [2, 0], [2, -1]), tf.stridedSlice(m, [4, 1], [0, 30], [-2, 3])]; }),
  one('transpose, reshape, expandDims, tile, reverse, broadcastTo', (r) => { const { m, t } = shapes(r); return [tf.transpose(t, [2, 0, 1]), tf.transpose(m), tf.expandDims(m, 1), tf.tile(m, [2, 3]), tf.reverse(t, 1), tf.broadcastTo(m, [2, 5, 33]), tf.reshape(t, [-1, 11])]; }),
  one('gather, oneHot, range, fill, zerosLike, cumsum', (r) => { const { t, m } = shapes(r); return [tf.gather(m, r.integers<tf.Tensor1D>([9], 5)), tf.gather(t, r.integers<tf.Tensor2D>([2, 2], 5), 1), tf.cast(tf.oneHot(r.integers<tf.Tensor1D>([6], 4), 4), 'float32'), tf.range(3, 20, 2), tf.fill([3], 2.5), tf.zerosLike(m), tf.onesLike(m), tf.cumsum(t, 1), tf.cumsum(m, 1, true, true)]; }, 1e-5),
  one('matMul, plain, transposed, batched and repeated', (r) => { const a = r.tensor<tf.Tensor3D>([3, 7, 20]), b = r.tensor<tf.Tensor3D>([3, 20, 9]); return [tf.matMul(a, b), tf.matMul(a, r.tensor<tf.Tensor3D>([3, 9, 20]), false, true), tf.matMul(r.tensor<tf.Tensor3D>([3, 20, 7]), b, true), tf.matMul(a, r.tensor<tf.Tensor3D>([1, 20, 9])), tf.matMul(r.tensor([1, 8]), r.tensor([8, 5]))]; }, 1e-5),
  one('matMul repeated along one of two batch axes', (r) => {
    const [a, b] = [r.tensor<tf.Tensor4D>([2, 1, 4, 8]), r.tensor<tf.Tensor4D>([2, 3, 8, 5])];
    // tfjs's own cpu kernel repeats the wrong way round, so the reference repeats first.
    return tf.matMul(tf.getBackend() === 'cpu' ? tf.tile(a, [1, 3, 1, 1]) : a, b);
  }, 1e-5),
  one('casts', (r) => { const x = r.tensor([50], 4); return [tf.cast(x, 'int32'), tf.cast(tf.cast(x, 'bool'), 'float32'), tf.cast(r.integers([9], 5), 'float32')]; }, 0),
  { name: 'gradients of gather, mul, sum, concat, matMul', tolerance: 1e-5, run: (r) => {
    const ids = r.integers<tf.Tensor1D>([40], 9);
    return withGradients(r, [r.tensor([9, 300]), r.tensor([40, 300]), r.tensor([300, 8])], (x, y, z) => tf.matMul(tf.concat([tf.mul(tf.gather(x, ids), y), tf.gather(x, ids)], 0), z));
  } },
  one('empty tensors', (r) => [tf.add(r.tensor([0, 4]), r.tensor([4])), tf.sum(r.tensor([0, 4]), 0), tf.concat([r.tensor([0, 4]), r.tensor([2, 4])], 0)]),
  ...[0, 0.3].map((maxGradNorm): GpuCase => ({
    name: `adamW, three updates, clipping at ${maxGradNorm}`,
    tolerance: 1e-4,
    run: (random) => {
      const parameters = [[8, 700], [9, 4], [5000, 1]].map((shape) => variable(random.tensor(shape))) as Variable[];
      const state = createAdamW(parameters);
      const norms = [1, 2, 3].map(() =>
        adamW(parameters, parameters.map(({ shape }) => random.tensor(shape)), state, { learningRate: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.01, maxGradNorm }).gradNorm);
      const results = [...norms, ...parameters, state.m, state.v].map((x) => tf.add(x, zeros(x.shape)));
      [...parameters, state.m, state.v].forEach((x) => x.dispose());
      return results;
    },
  })),
];
