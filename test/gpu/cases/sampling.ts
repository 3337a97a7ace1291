import type { CudaBackend } from '../../../engine/cuda/backend.js';
import { decodeState, decodeStateRows } from '../../../engine/cuda/programs/decode-ops.cu.js';
import { decodeArgMaxProgram, decodeSampleProgram } from '../../../engine/cuda/programs/decode-pick.cu.js';
import { sampleToken, type Sampling } from '../../../engine/model/sample.js';
import { Random } from './compare.js';

export const samplingCases: Sampling[] = [
  { temperature: 1, seed: 3 },
  { temperature: 0.7, topK: 40, seed: 2 ** 40 + 5 },
  { temperature: 1.3, topP: 0.9, seed: 4 },
  { temperature: 0.5, topP: 0.5, topK: 7, seed: 5 },
  { temperature: 2, topK: 1, seed: 6 },
];

/** The share of rows for which the device draws another token than the host does from the same logits. */
export function drawnOtherwise(backend: CudaBackend, sampling: Sampling, seed: number, rows = 200, vocabulary = 5003): number {
  const { device } = backend;
  // Coarse logits, so that there are ties.
  const logits = new Random(seed).values(rows * vocabulary, 6).map((value) => Math.round(value * 8) / 8);
  const state = new Int32Array(decodeStateRows * rows);
  for (let row = 0; row < rows; row++) {
    state[decodeState.position * rows + row] = row;
    state[decodeState.stream * rows + row] = row * 3;
    state[decodeState.place * rows + row] = row + 1;
  }
  const stateBlock = device.memory.allocate(state.byteLength, 'a test'), logitBlock = device.memory.allocate(logits.byteLength, 'a test');
  device.upload(stateBlock, state);
  device.upload(logitBlock, logits);
  const { temperature, topP = 1, topK = vocabulary } = sampling;
  backend.launch(decodeSampleProgram(rows, topP < 1 || topK < vocabulary), [
    { pointer: stateBlock.address }, rows, { pointer: logitBlock.address }, vocabulary, 100, { f32: 1 / temperature }, { f32: topP }, topK,
    { u32: sampling.seed >>> 0 }, { u32: Math.floor(sampling.seed / 2 ** 32) },
  ]);
  const after = new Int32Array(state.length);
  device.download(stateBlock.address, after);
  backend.launch(decodeArgMaxProgram(rows), [{ pointer: stateBlock.address }, rows, { pointer: logitBlock.address }, vocabulary, 100]);
  const likeliest = new Int32Array(rows);
  device.download(stateBlock.address, likeliest);
  for (const block of [stateBlock, logitBlock]) device.memory.free(block);
  let others = 0;
  for (let row = 0; row < rows; row++) {
    const own = logits.subarray(row * vocabulary, (row + 1) * vocabulary);
    if (after[row] !== sampleToken(own, sampling, row * 3, row + 1)) others++;
    if (likeliest[row] !== own.indexOf(own.reduce((a, b) => Math.max(a, b)))) return 1;
    if (after[decodeState.position * rows + row] !== Math.min(row + 1, 99) || after[decodeState.place * rows + row] !== row + 2) return 1;
  }
  return others / rows;
}
