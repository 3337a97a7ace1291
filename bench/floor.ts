import type { CudaBackend } from '../engine/cuda/backend.js';
import type { MatrixOperand } from '../engine/cuda/cublas-lt.js';
import type { LlamaConfig } from '../engine/formats/llama-config.js';
import { blockModules, moduleShape } from '../engine/formats/linear-modules.js';

const REPEATS = 8;

/**
 * The floor of a training step: forward and input-gradient products of every frozen matrix in bf16, nothing else, on random
 * values. @returns milliseconds a step
 */
export function productFloor(backend: CudaBackend, config: LlamaConfig, tokens: number): number {
  const { device } = backend;
  const matrix = (rows: number, columns: number): MatrixOperand => {
    const { address } = device.memory.allocate(2 * rows * columns, "the floor's operands");
    // Bits of bf16 values between 1 and 2: zeros would run faster than real data does.
    const bits = new Uint16Array(rows * columns);
    let state = rows + columns;
    for (let i = 0; i < bits.length; i++) bits[i] = 0x3f80 | ((state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 25);
    device.upload({ address, bytes: bits.byteLength }, bits);
    return { address, format: 'bf16', rows, columns };
  };
  const shapes = blockModules.map((name) => moduleShape(config, name));
  const activations = new Map([config.hiddenSize, config.intermediateSize, config.vocabSize, config.heads * config.headDim, config.kvHeads * config.headDim].map((width) => [width, matrix(tokens, width)]));
  const results = new Map([...activations.keys()].map((width) => [width, matrix(tokens, width)]));
  const drawn = shapes.map(([out, inner]) => matrix(out, inner));
  // A copy for each layer: reading one block's matrices over and over would be served by the cache.
  const layers = Array.from({ length: config.layers }, () => drawn.map((first) => {
    const { address } = device.memory.allocate(2 * first.rows * first.columns, "the floor's operands");
    device.copy(address, first.address, 2 * first.rows * first.columns);
    return { ...first, address };
  }));
  const head = matrix(config.vocabSize, config.hiddenSize);
  const step = () => {
    for (const b of [...layers.flat(), head]) backend.multiply({ a: activations.get(b.columns)!, b, transposeB: true, out: results.get(b.rows)! });
    for (const b of [head, ...layers.flat().reverse()]) backend.multiply({ a: activations.get(b.rows)!, b, out: results.get(b.columns)! });
  };
  for (let i = 0; i < 2; i++) step();
  return device.time(() => {
    for (let i = 0; i < REPEATS; i++) step();
  }) / REPEATS;
}
