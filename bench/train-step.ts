import type { Tensor } from '@tensorflow/tfjs-core';
import type { TokenRows } from '../engine/data/batches.js';
import { LoraAdapter } from '../engine/model/adapter.js';
import type { LlamaModel } from '../engine/model/load.js';
import { targetModules } from '../engine/formats/linear-modules.js';
import { adamW, createAdamW, disposeAdamW, type AdamWState } from '../engine/tensor/adam-w.js';
import { replayer, type MeasuredMemory } from '../engine/tensor/replay.js';
import { logitsAtOnce } from '../engine/train/memory-plan.js';
import { GradientPasses, layOut, type UploadedBatch } from '../engine/train/passes.js';

export interface StepShape {
  /** Rows of a pass, and tokens of a row. */
  rows: number;
  length: number;
  /** Passes a step. */
  accumulation: number;
  recompute: boolean;
}

/** The trainer's passes and optimizer on the job of the speed table: r = 8, all eight modules, dropout 0.05, clipping at 0.3. */
export class StepBench {
  readonly adapter: LoraAdapter;
  private readonly optimizer: AdamWState;
  private readonly passes: GradientPasses;
  private step = 0;

  constructor(
    private readonly model: LlamaModel,
    longest: number,
    dropout = 0.05,
    private readonly learningRate = 1e-5,
  ) {
    this.adapter = LoraAdapter.create(model.config, { rank: 8, alpha: 8, dropout, targetModules }, 42);
    this.optimizer = createAdamW(this.variables);
    this.passes = new GradientPasses(model, this.adapter, longest);
  }

  /** One optimizer step over `accumulation` passes. @returns summed losses and the gradient norm, on the device */
  run({ rows, length, accumulation, recompute }: StepShape): { losses: Tensor[]; gradNorm: Tensor } {
    this.step++;
    this.spend(recompute, rows * length);
    const losses = Array.from({ length: accumulation }, (_, pass) =>
      this.passes.run(this.upload(rows, length, pass, accumulation), { seed: 7, step: this.step, microBatch: pass }, pass === 0));
    const { gradNorm } = adamW(this.variables, this.passes.sums, this.optimizer, { learningRate: this.learningRate, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, maxGradNorm: 0.3 });
    return { losses, gradNorm };
  }

  /** What a pass takes beside model, adapter and optimizer, as the backend foretells; undefined where it cannot. */
  measure({ rows, length, recompute }: StepShape): MeasuredMemory | undefined {
    this.spend(recompute, rows * length);
    return replayer() && this.passes.measure({ tokens: rows * length, counted: rows * (length - 1) });
  }

  /** As a training whose plan is to keep the activations, or to spend little. */
  private spend(recompute: boolean, tokens: number): void {
    this.passes.recompute = recompute;
    if (replayer()) this.passes.logits = logitsAtOnce({ checkpointing: recompute }, tokens, this.model.config.vocabSize);
  }

  private upload(rows: number, length: number, seed: number, accumulation: number): UploadedBatch {
    const batch = layOut(randomRows(rows, length, this.model.config.vocabSize, seed), Array.from({ length: rows }, (_, row) => row));
    return this.passes.upload(batch, 1 / (batch.countedTokens * accumulation));
  }

  dispose(): void {
    replayer()?.clear();
    this.passes.dispose();
    this.adapter.dispose();
    disposeAdamW(this.optimizer);
  }

  private get variables() {
    return this.adapter.parameters().map(({ variable }) => variable);
  }
}

/** Rows of one length, every token but the first counted; the same for one seed. */
export function randomRows(count: number, length: number, vocabulary: number, seed: number): TokenRows {
  let state = seed + 1;
  const token = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) % vocabulary;
  const ids = Array.from({ length: count }, () => Int32Array.from({ length }, token));
  return { count, length: () => length, ids: (row) => ids[row], mask: () => new Uint8Array(length).fill(1).fill(0, 0, 1) };
}
