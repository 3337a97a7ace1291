import { tidy, engine, type TensorInfo, type Variable } from '@tensorflow/tfjs-core';
import { AdamW, type AdamWAttrs, type ParameterGroup } from '../../tensor/adam-w.js';
import { cudaKernel, type CudaBackend } from '../backend.js';
import { adamWProgram, CHUNK_ENTRY_BYTES, CHUNK_VALUES, gradientNormProgram, gradientSquaresProgram } from '../programs/adam-w.cu.js';

/** Three launches for any number of tensors: squares of chunks, their norm, the update. */
export const adamWKernel = cudaKernel<object, AdamWAttrs>(AdamW, ({ attrs: { parameters, gradients, state, options }, backend }) => {
  const { learningRate, beta1, beta2, epsilon, weightDecay, maxGradNorm, groups } = options;
  const norm = backend.make([], 'float32', 'f32', 'the gradient norm');
  for (const variable of [...parameters, state.m, state.v]) own(backend, variable);
  backend.with('f32', gradients, (...wide) => {
    const chunks = parameters.reduce((sum, { size }) => sum + Math.ceil(size / CHUNK_VALUES), 0);
    if (chunks === 0) return backend.device.fill(backend.address(norm), 0, 4);
    // The same from step to step, and long enough for its upload to wait for the device: it stays there with the moments.
    const places = [...parameters, ...wide].map((info) => backend.address(info).toString(36)).join(' ');
    const table = backend.companion(state.m, `the optimizer's table ${places} ${JSON.stringify(groups ?? [])}`, chunks * CHUNK_ENTRY_BYTES, (block) =>
      backend.device.upload(block, chunkTable(backend, parameters, wide, groups)));
    const entries = { pointer: table.address };
    for (const parameter of parameters) backend.writable(parameter);
    backend.scratch(4 * chunks, 'gradient norms', (squares) => {
      backend.launch(gradientSquaresProgram(chunks), [{ pointer: squares }, entries]);
      backend.launch(gradientNormProgram(), [backend.pointer(norm), { pointer: squares }, chunks]);
    });
    backend.launch(adamWProgram(chunks), [
      { pointer: backend.writable(state.m) }, { pointer: backend.writable(state.v) }, backend.pointer(norm), entries, { f32: maxGradNorm },
      { f32: beta1 }, { f32: 1 - beta1 }, { f32: beta2 }, { f32: 1 - beta2 }, { f32: epsilon },
      { f32: learningRate / (1 - beta1 ** state.step) }, { f32: Math.sqrt(1 - beta2 ** state.step) }, { f32: learningRate * weightDecay },
    ]);
  });
  return norm;
});

function chunkTable(backend: CudaBackend, parameters: readonly Variable[], gradients: readonly TensorInfo[], groups?: readonly ParameterGroup[]): Buffer {
  const chunks = parameters.reduce((sum, { size }) => sum + Math.ceil(size / CHUNK_VALUES), 0);
  const table = Buffer.alloc(chunks * CHUNK_ENTRY_BYTES);
  let entry = 0, moments = 0;
  parameters.forEach((parameter, i) => {
    const { rate, decays } = groups?.[i] ?? { rate: 1, decays: true };
    const to = backend.address(parameter), from = backend.address(gradients[i]);
    for (let start = 0; start < parameter.size; start += CHUNK_VALUES, entry += CHUNK_ENTRY_BYTES) {
      table.writeBigUInt64LE(BigInt(to + 4 * start), entry);
      table.writeBigUInt64LE(BigInt(from + 4 * start), entry + 8);
      table.writeBigUInt64LE(BigInt(moments + start), entry + 16);
      table.writeInt32LE(Math.min(CHUNK_VALUES, parameter.size - start), entry + 24);
      table.writeFloatLE(rate, entry + 28);
      table.writeFloatLE(decays ? 1 : 0, entry + 32);
    }
    moments += parameter.size;
  });
  return table;
}

/** Gives a variable data of its own, in float32, before it is changed in place: other handles keep the old values. */
export function own(backend: CudaBackend, variable: Variable): void {
  if (backend.refCount(variable.dataId) === 1 && backend.format(variable) === 'f32') return;
  tidy(() => {
    const copy = backend.make(variable.shape, 'float32', 'f32', 'a variable');
    backend.with('f32', [variable], (values) => backend.device.copy(backend.address(copy), backend.address(values), 4 * variable.size));
    variable.assign(engine().makeTensorFromTensorInfo(copy));
  });
}
