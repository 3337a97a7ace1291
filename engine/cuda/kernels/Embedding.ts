import { util } from '@tensorflow/tfjs-core';
import { Embedding, type EmbeddingAttrs, type EmbeddingInputs } from '../../tensor/embedding.js';
import { cudaKernel } from '../backend.js';
import { gatherProgram } from '../programs/layout.cu.js';
import { withWeight } from '../weights.js';

export const embeddingKernel = cudaKernel<EmbeddingInputs, EmbeddingAttrs>(Embedding, ({ inputs: { ids }, attrs: { weight }, backend }) => {
  const [rows, columns] = weight.shape;
  const out = backend.make([...ids.shape, columns], 'float32', 'bf16', 'embedded tokens');
  const count = util.sizeFromShape(ids.shape);
  withWeight(backend, weight, (table) =>
    backend.launch(gatherProgram('bf16', count * columns), [
      backend.pointer(out), { pointer: table.address }, backend.pointer(ids), { i64: count * columns }, { i64: 1 }, { i64: count }, { i64: columns }, { i64: rows },
    ]));
  return out;
});
