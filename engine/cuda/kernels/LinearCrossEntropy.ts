import type { TensorInfo } from '@tensorflow/tfjs-core';
import { LinearCrossEntropy, type LinearCrossEntropyAttrs, type LinearCrossEntropyInputs } from '../../tensor/linear-cross-entropy.js';
import { cudaKernel, type CudaBackend } from '../backend.js';
import type { MatrixOperand } from '../cublas-lt.js';
import { branchesDown, branchGradients, fitsRoom, inputGradients, linears, roomyLinears, takesRoomy, type Branch } from '../lora-branch.js';
import { crossEntropyProgram } from '../programs/loss.cu.js';
import { reduceProgram } from '../programs/reduce.cu.js';
import { withLastingRoom } from '../weights.js';

/** Rows of a chunk are a multiple of this where there are enough: whole tiles for the tensor cores. */
const ROW_TILE = 128;

/** Logits in float32, their gradient in bf16, a chunk of rows at a time. */
export const linearCrossEntropyKernel = cudaKernel<LinearCrossEntropyInputs, LinearCrossEntropyAttrs>(
  LinearCrossEntropy,
  ({ inputs: { hidden, labels, a, b }, attrs: { head, scale, dropout, chunk, gradients }, backend }) => {
    const [rows, inner] = hidden.shape, [vocabulary] = head.shape;
    const step = chunk > ROW_TILE ? chunk - (chunk % ROW_TILE) : chunk;
    const loss = backend.make([], 'float32', 'f32', 'the loss');
    const dHidden = gradients ? backend.make([rows, inner], 'float32', 'bf16', 'the gradient of the last hidden state') : undefined;
    const branch = a && b ? { rank: a.shape[0], inner, out: vocabulary, scale, dropout, a, b } : undefined;
    const dA = gradients && a ? backend.make(a.shape, 'float32', 'f32', 'the gradient of A') : undefined;
    const dB = gradients && b ? backend.make(b.shape, 'float32', 'f32', 'the gradient of B') : undefined;

    const takesRoom = !branch || takesRoomy([branch]);
    // One matrix for all chunks: where it is not kept, it is made but once.
    withLastingRoom(backend, head, (weight) => backend.with('bf16', [hidden], (input) =>
      backend.scratch(4 * rows, 'token losses', (losses) => {
        const whole = takesRoom ? backend.rowsOf(input, rows, inner) : backend.matrix(input, rows, inner);
        for (let start = 0; start < rows; start += step) {
          const size = Math.min(step, rows - start);
          const rowsFrom = (matrix: MatrixOperand) => ({ ...matrix, rows: size, address: matrix.address + 2 * start * (matrix.stride ?? inner) });
          const x = rowsFrom(whole);
          forwardChunk(backend, x, { weight, branch, first: start * inner, size, vocabulary }, (logits, low) => {
            const row = (gradient: number) =>
              backend.launch(crossEntropyProgram(size), [
                { pointer: losses + 4 * start }, { pointer: gradient }, { pointer: logits }, { pointer: backend.address(labels) + 4 * start }, vocabulary,
              ]);
            if (!dHidden) return row(0);
            const dLogits = backend.make([size, vocabulary], 'float32', 'bf16', 'the gradient of the logits');
            row(backend.address(dLogits));
            const dy = backend.matrix(dLogits, size, vocabulary);
            const first = start * inner;
            const [dLow] = branch && low && dA && dB ? branchGradients(backend, x, [{ ...branch, dy, hidden: low, dA, dB }], { first, accumulate: start > 0 }) : [];
            inputGradients(backend, rowsFrom(backend.matrix(dHidden, rows, inner)), [{ dy, weight, branch: branch && dLow && { ...branch, dHidden: dLow } }], first);
            for (const info of [dLogits, ...(dLow ? [dLow] : [])]) backend.free(info);
          });
        }
        backend.launch(reduceProgram('sum', 'f32', 'f32', 1, rows), [backend.pointer(loss), { pointer: losses }, { i64: 1 }, { i64: rows }, { f32: 1 }]);
      })));
    return [loss, ...[dHidden, dA, dB].filter((info): info is TensorInfo => info !== undefined)];
  },
);

interface Chunk {
  weight: MatrixOperand;
  branch?: Branch & { a: TensorInfo; b: TensorInfo };
  first: number;
  size: number;
  vocabulary: number;
}

/** Logits of a chunk of rows, for as long as `use` runs; `low` is the branch's hidden state. */
function forwardChunk(backend: CudaBackend, x: MatrixOperand, { weight, branch, first, size, vocabulary }: Chunk, use: (logits: number, low?: TensorInfo) => void): void {
  backend.scratch(4 * size * vocabulary, 'a chunk of logits', (logits) => {
    const y = { address: logits, format: 'f32' as const, rows: size, columns: vocabulary };
    const place = branch !== undefined && first % 8 === 0 && fitsRoom(x, [branch], [weight]);
    const [low] = branchesDown(backend, x, branch ? [branch] : [], { first, place });
    const products = [{ y, weight, branch: branch && { ...branch, hidden: low } }];
    if (place) roomyLinears(backend, x, products);
    else linears(backend, x, products, first);
    use(logits, low);
    if (low) backend.free(low);
  });
}
