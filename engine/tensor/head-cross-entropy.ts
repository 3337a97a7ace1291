import { cast, greaterEqual, logSumExp, maximum, mul, oneHot, reshape, scalar, softmax, sub, sum, type Scalar, type Tensor1D, type Tensor2D } from '@tensorflow/tfjs-core';
import { adaptedLinear, isDora } from './adapted-linear.js';
import type { FrozenWeight } from './frozen-weight.js';
import { differentiable } from './kernel.js';
import { linearCrossEntropy } from './linear-cross-entropy.js';
import type { LoraBranch } from './lora.js';

/**
 * The summed cross-entropy (nats) of a head's logits, with the head in any of the ways of `adaptedLinear`. A head that is frozen,
 * or has a plain low-rank branch, never has all of its logits in memory; the others do.
 * @param hidden [n, h]
 * @param labels int32 [n]; a negative one does not count
 * @param options.logits see `linearCrossEntropy`
 */
export function headCrossEntropy(hidden: Tensor2D, head: FrozenWeight, labels: Tensor1D, options: { lora?: LoraBranch; logits?: number } = {}): Scalar {
  const isPlain = !isDora(options.lora) && !(head.kind === 'dense' && head.trained);
  return isPlain ? linearCrossEntropy(hidden, head, labels, options) : crossEntropy(adaptedLinear(hidden, head, options) as Tensor2D, labels);
}

/** Sum over rows of -log softmax(logits)[label], in nats. logits [n, vocabulary]; a row with a negative label does not count. */
function crossEntropy(logits: Tensor2D, labels: Tensor1D): Scalar {
  const [rows, vocabulary] = logits.shape;
  const counted = (of: Tensor1D) => reshape(cast(greaterEqual(of, 0), 'float32'), [rows, 1]);
  const chosen = (of: Tensor1D) => mul(cast(oneHot(maximum(of, scalar(0, 'int32')), vocabulary), 'float32'), counted(of));
  return differentiable<Scalar>(
    { logits },
    (save) => {
      save([logits, labels]);
      const scores = mul(reshape(logSumExp(logits, 1), [rows, 1]), counted(labels));
      return sub(sum(scores), sum(mul(logits, chosen(labels))));
    },
    (dy, saved) => {
      const [scores, of] = saved as [Tensor2D, Tensor1D];
      return { logits: () => mul(sub(mul(softmax(scores), counted(of)), chosen(of)), dy) };
    },
  );
}
