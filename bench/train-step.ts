import { add, dispose, findBackend, reshape, split, tidy, type Tensor } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../engine/cuda/backend.js';
import { LoraAdapter } from '../engine/model/adapter.js';
import type { LabelledBatch } from '../engine/model/llama.js';
import type { LlamaModel } from '../engine/model/load.js';
import { targetModules } from '../engine/model/targets.js';
import { adamW, createAdamW, type AdamWState } from '../engine/tensor/adam-w.js';
import { batchTensors, microBatch, type BatchTensors } from './micro-batch.js';

export interface StepShape {
  rows: number;
  length: number;
  accumulation: number;
  recompute: boolean;
  /** Record micro-batches as CUDA graphs. */
  graph: boolean;
}

/** Dropout streams of one micro-batch, as the adapter numbers them. */
const STREAMS = 4096;

/** The job of the speed table: r = 8, all eight modules, dropout 0.05, clipping at 0.3. */
export class StepBench {
  readonly adapter: LoraAdapter;
  private readonly optimizer: AdamWState;
  private step = 0;

  constructor(
    private readonly model: LlamaModel,
    dropout = 0.05,
    private readonly learningRate = 1e-5,
  ) {
    this.adapter = LoraAdapter.create(model.config, { rank: 8, alpha: 8, dropout, targetModules }, 42);
    this.optimizer = createAdamW(this.adapter.parameters().map(({ variable }) => variable));
  }

  /** One optimizer step over `accumulation` micro-batches. @returns summed losses and the gradient norm, on the device */
  run({ rows, length, accumulation, recompute, graph }: StepShape): { losses: Tensor[]; gradNorm: Tensor } {
    this.step++;
    const { model, adapter, step } = this;
    const variables = adapter.parameters().map(({ variable }) => variable);
    let total: Tensor | undefined;
    const losses: Tensor[] = [];
    for (let index = 0; index < accumulation; index++) {
      const inputs = batchTensors(model, randomBatch(rows, length, model.config.vocabSize, index), 1 / (rows * length * accumulation));
      const compute = (tensors: Tensor[]): Tensor[] => microBatch(model, adapter, { seed: 7, step, microBatch: index }, tensors as BatchTensors, recompute);
      const [loss, gradients] = graph
        ? (findBackend('cuda') as CudaBackend).graphs.run(`step ${recompute}`, inputs, variables, { step, stream: index * STREAMS }, compute)
        : tidy(() => compute(inputs));
      dispose(inputs);
      losses.push(loss);
      const before = total;
      total = before ? add(before, gradients) : gradients;
      if (before) dispose([before, gradients]);
    }
    const gradients = tidy(() => split(total!, variables.map(({ size }) => size)).map((part, i) => reshape(part, variables[i].shape)));
    total!.dispose();
    const { gradNorm } = adamW(variables, gradients, this.optimizer, { learningRate: this.learningRate, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, maxGradNorm: 0.3 });
    dispose(gradients);
    return { losses, gradNorm };
  }

  dispose(): void {
    this.adapter.dispose();
    this.optimizer.m.dispose();
    this.optimizer.v.dispose();
  }
}

/** Rows without padding, every token counted; the same for one seed. */
export function randomBatch(rows: number, length: number, vocabulary: number, seed: number): LabelledBatch {
  const size = rows * length;
  let state = seed + 1;
  const token = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) % vocabulary;
  const inputIds = Int32Array.from({ length: size }, token);
  return {
    shape: [rows, length],
    inputIds,
    positions: Int32Array.from({ length: size }, (_, i) => i % length),
    segments: new Int32Array(size).fill(1),
    labels: Int32Array.from({ length: size }, token),
  };
}
