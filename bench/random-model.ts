import { concat, slice, tensor1d, tidy, keep, type Tensor1D } from '@tensorflow/tfjs-core';
import type { LlamaConfig } from '../engine/formats/llama-config.js';
import { moduleShape, blockModules, type BlockModule } from '../engine/formats/linear-modules.js';
import type { LlamaModel } from '../engine/model/load.js';
import { freezeWeight, type BaseDtype, type FrozenWeight } from '../engine/tensor/frozen-weight.js';

const llama = (shape: Partial<LlamaConfig>): LlamaConfig => ({
  architecture: 'llama', vocabSize: 32000, hiddenSize: 3200, intermediateSize: 8640, layers: 26, heads: 32, kvHeads: 32, headDim: 100, contextLength: 2048,
  ropeTheta: 10000, rmsNormEps: 1e-6, tiedEmbeddings: false, eosTokenIds: [], ...shape,
});

/** The shapes of real models. */
export const modelShapes = {
  'open-llama-3b-v2': llama({}),
  'smollm2-135m': llama({ vocabSize: 49152, hiddenSize: 576, intermediateSize: 1536, layers: 30, heads: 9, kvHeads: 3, headDim: 64, ropeTheta: 100000, tiedEmbeddings: true }),
  tiny: llama({ vocabSize: 300, hiddenSize: 64, intermediateSize: 176, layers: 3, heads: 4, kvHeads: 2, headDim: 16 }),
};

/** Xorshift: fast, and the same on every machine. */
function randomValues(count: number, scale: number, seed: number): Float32Array {
  const values = new Float32Array(count);
  let state = (seed * 2654435761 + 1) | 0 || 1;
  for (let i = 0; i < count; i++) {
    state ^= state << 13; state ^= state >>> 17; state ^= state << 5;
    values[i] = (state / 2 ** 31) * scale;
  }
  return values;
}

/**
 * A model of random weights in the given shape, for timing. One block is drawn and quantised; the others are copies of it in
 * memory of their own, which cost a GPU the same.
 */
export function randomModel(config: LlamaConfig, base: BaseDtype): LlamaModel {
  const matrix = (shape: [number, number], seed: number, dtype: BaseDtype) => freezeWeight(randomValues(shape[0] * shape[1], Math.sqrt(3 / shape[1]) * 0.7, seed), shape, dtype);
  const ones = (): Tensor1D => keep(tensor1d(new Float32Array(config.hiddenSize).fill(1)));
  const plain: BaseDtype = base.dtype === 'bf16' ? base : { dtype: 'f32' };
  const embedding = freezeWeight(randomValues(config.vocabSize * config.hiddenSize, 1, 1), [config.vocabSize, config.hiddenSize], plain);
  const first = Object.fromEntries(blockModules.map((name, i) => [name, matrix(moduleShape(config, name), i + 2, base)])) as Record<BlockModule, FrozenWeight>;
  const blocks = Array.from({ length: config.layers }, (_, layer) => ({
    inputNorm: ones(),
    postAttentionNorm: ones(),
    linear: layer === 0 ? first : (Object.fromEntries(blockModules.map((name) => [name, copyWeight(first[name])])) as Record<BlockModule, FrozenWeight>),
  }));
  const head = config.tiedEmbeddings ? embedding : matrix(moduleShape(config, 'lm_head'), 99, plain);
  const parameters = config.vocabSize * config.hiddenSize * (config.tiedEmbeddings ? 1 : 2) + config.layers * blockModules.reduce((sum, name) => sum + moduleShape(config, name).reduce((a, b) => a * b), 0);
  return { config, base, embedding, blocks, norm: ones(), head, parameters };
}

/** Tensors anew: concatenating two halves copies on the device. */
function copyWeight(weight: FrozenWeight): FrozenWeight {
  const copy = <T extends Tensor1D>(tensor: T): T => {
    const half = Math.floor(tensor.size / 2);
    return tidy(() => keep(concat([slice(tensor, 0, half), slice(tensor, half, tensor.size - half)]) as T));
  };
  if (weight.kind === 'nf4') {
    const { absmax } = weight;
    return { ...weight, codes: copy(weight.codes), absmax: absmax.nested ? { ...absmax, codes: copy(absmax.codes), absmax: copy(absmax.absmax) } : { nested: false, values: copy(absmax.values) } };
  }
  if (weight.kind === 'int8') return { ...weight, codes: copy(weight.codes), absmax: copy(weight.absmax) };
  return weight;
}
