import type { Variable } from '@tensorflow/tfjs-core';
import { AddGradients, type AddGradientsAttrs } from '../../tensor/gradient-sums.js';
import { cudaKernel } from '../backend.js';
import { addGradientsProgram, SUM_CHUNK_VALUES, SUM_ENTRY_BYTES } from '../programs/add-gradients.cu.js';
import { own } from './AdamW.js';

/** One launch for any number of tensors, by a table of chunks. */
export const addGradientsKernel = cudaKernel<object, AddGradientsAttrs>(AddGradients, ({ attrs: { sums, gradients, first }, backend }) => {
  for (const sum of sums) own(backend, sum);
  backend.with('f32', gradients, (...parts) => {
    const chunks = parts.flatMap((part, i) => chunksOf(backend.writable(sums[i] as Variable), backend.address(part), sums[i].size));
    if (chunks.length === 0) return;
    const table = Buffer.alloc(chunks.length * SUM_ENTRY_BYTES);
    chunks.forEach(({ to, from, count }, i) => {
      table.writeBigUInt64LE(BigInt(to), i * SUM_ENTRY_BYTES);
      table.writeBigUInt64LE(BigInt(from), i * SUM_ENTRY_BYTES + 8);
      table.writeBigUInt64LE(BigInt(count), i * SUM_ENTRY_BYTES + 16);
    });
    backend.constants(table, 'the table of gradients', (address) =>
      backend.launch(addGradientsProgram(chunks.length, first), [{ pointer: address }]));
  });
  return [];
});

function chunksOf(to: number, from: number, size: number): { to: number; from: number; count: number }[] {
  return Array.from({ length: Math.ceil(size / SUM_CHUNK_VALUES) }, (_, i) => {
    const start = i * SUM_CHUNK_VALUES;
    return { to: to + 4 * start, from: from + 4 * start, count: Math.min(SUM_CHUNK_VALUES, size - start) };
  });
}
