import { add, dispose, tensor1d, tidy, type Tensor } from '@tensorflow/tfjs-core';
import type { LoraConfig, TrainConfig } from '../../contracts/fine-tune-config.js';
import { epochOrder, packRows, type PackedBatch, type TokenRows } from '../data/batches.js';
import { EngineError } from '../errors.js';
import { LoraAdapter, type DropoutDraw, type ParameterValues } from '../model/adapter.js';
import { lossAndGradients } from '../model/gradients.js';
import type { LlamaModel } from '../model/load.js';
import { adamW, createAdamW, disposeAdamW, type AdamWState } from '../tensor/adam-w.js';
import { trainingDigest, type TrainingState } from './checkpoint.js';
import { evaluateLoss } from './evaluate.js';
import { evaluationsWithoutGain, logEval, logStep, newTrainerState, type StepLog, type TrainerState } from './history.js';
import { gradientError, lossError } from './non-finite.js';
import { placeOf, planTraining, type Plan, type PlanOptions } from './plan.js';
import { learningRateAt, planSchedule } from './schedule.js';

export interface TrainJob {
  model: LlamaModel;
  lora: LoraConfig;
  train: TrainConfig;
  trainRows: TokenRows;
  testRows: TokenRows;
  /** Go on from here. */
  resume?: TrainingState;
  /** The adapter to start with, by parameter name. @default drawn by the seed, see `LoraAdapter.create` */
  initial?: ReadonlyMap<string, ParameterValues>;
  /** The order of an epoch's rows. @default `epochOrder` with the seed */
  order?: (epoch: number) => number[];
}

/** What happens on the way. A promise is awaited before training goes on. */
export interface TrainHooks {
  /** Before the first step. */
  onStart?(adapter: LoraAdapter): void;
  onStep?(entry: StepLog, steps: number): void | Promise<void>;
  /** After each micro-batch and each batch of an evaluation. */
  onProgress?(phase: 'training' | 'evaluating', done: number, total: number): void | Promise<void>;
  onEval?(entry: { step: number; epoch: number; loss: number; tokens: number }): void | Promise<void>;
  /** Every `checkpointEvery` steps, and when training is interrupted. `state` is read from the device only when called. */
  onCheckpoint?(step: number, state: () => Promise<TrainingState>): void | Promise<void>;
  /** Asked after each step. True ends training after a checkpoint. */
  isInterrupted?(): boolean;
}

export interface TrainOutcome {
  adapter: LoraAdapter;
  history: TrainerState;
  /** False when it was interrupted. */
  finished: boolean;
}

const besideTheCourse: ReadonlySet<string> = new Set<keyof TrainConfig>(['batchSize', 'accumulation', 'evalEvery', 'checkpointEvery', 'checkpointing']);

/** Digest of what decides a training's course, for its checkpoints. How a step's rows are cut into micro-batches, and how often it is
 * evaluated or saved, does not count: a training may go on with smaller micro-batches when memory ran out. */
export function digestOf({ model, lora, train, trainRows }: Pick<TrainJob, 'model' | 'lora' | 'train' | 'trainRows'>): string {
  const course = Object.fromEntries(Object.entries(train).filter(([name]) => !besideTheCourse.has(name)));
  return trainingDigest([
    model.config, model.base, lora, { rowsPerStep: train.batchSize * train.accumulation, rows: trainRows.count },
    course,
  ]);
}

/** Trains an adapter on a frozen model. The caller disposes `adapter`. */
export async function trainAdapter(job: TrainJob, hooks: TrainHooks = {}): Promise<TrainOutcome> {
  const training = new Training(job, hooks);
  try {
    return await training.run();
  } catch (err) {
    training.adapter.dispose();
    throw err;
  } finally {
    disposeAdamW(training.optimizer);
  }
}

class Training {
  readonly adapter: LoraAdapter;
  readonly optimizer: AdamWState;
  private readonly history: TrainerState;
  private readonly plan: Plan;
  private readonly planOptions: PlanOptions;
  private readonly parameters;
  /** The adapter of the best evaluation so far, where that one is kept. */
  private best?: ReadonlyMap<string, ParameterValues>;
  /** The order of the epoch that is being trained. */
  private order: { epoch: number; rows: number[] } = { epoch: -1, rows: [] };

  constructor(
    private readonly job: TrainJob,
    private readonly hooks: TrainHooks,
  ) {
    const { model, lora, train, trainRows, resume, initial } = job;
    this.planOptions = { rows: trainRows.count, batchSize: train.batchSize, accumulation: train.accumulation, epochs: train.epochs, steps: train.steps };
    this.plan = planTraining(this.planOptions);
    const values = resume?.adapter ?? initial;
    this.adapter = values ? LoraAdapter.fromTensors(model.config, lora, values) : LoraAdapter.create(model.config, lora, train.seed);
    this.parameters = this.adapter.parameters();
    this.best = resume?.best;
    this.history = resume?.history ?? newTrainerState({ plan: this.plan, ...train });
    this.optimizer = createAdamW(this.parameters.map(({ variable }) => variable));
    if (resume) {
      this.optimizer.step = resume.history.global_step;
      for (const moment of ['m', 'v'] as const) tidy(() => this.optimizer[moment].assign(tensor1d(resume[moment])));
    }
  }

  async run(): Promise<TrainOutcome> {
    const { train } = this.job;
    this.hooks.onStart?.(this.adapter);
    for (let step = this.history.global_step; step < this.plan.steps && !this.isExhausted(); step++) {
      const place = await this.step(step);
      const done = step + 1;
      const isLast = done === this.plan.steps;
      if (isLast || (train.evalEvery === 'epoch' ? place.endsEpoch : done % train.evalEvery === 0)) await this.evaluate(done, place.epochsAfter);
      const interrupted = !isLast && (this.hooks.isInterrupted?.() ?? false);
      if (interrupted || (!isLast && done % train.checkpointEvery === 0)) await this.hooks.onCheckpoint?.(done, () => this.state());
      if (interrupted) return { adapter: this.adapter, history: this.history, finished: false };
    }
    if (train.keep === 'best' && this.best) this.adapter.assign(this.best);
    return { adapter: this.adapter, history: this.history, finished: true };
  }

  /** Whether early stopping ends the training here. */
  private isExhausted(): boolean {
    const { earlyStopping } = this.job.train;
    return earlyStopping !== undefined && evaluationsWithoutGain(this.history, earlyStopping.minDelta) >= earlyStopping.patience;
  }

  private async step(step: number): Promise<{ epochsAfter: number; endsEpoch: boolean }> {
    const { train, trainRows, model } = this.job;
    const place = placeOf(step, this.planOptions, this.plan);
    const order = this.orderOf(place.epoch);
    const batches = place.microBatches.map(({ from, to }) => packRows(trainRows, order.slice(from, to)));
    const counted = batches.reduce((sum, { countedTokens }) => sum + countedTokens, 0);
    if (counted === 0) throw new EngineError('invalidInput', 'no_counted_tokens', `step ${step + 1}: expected at least one token that the loss counts, got none`);

    let loss = 0;
    let gradients: Tensor[] | undefined;
    for (const [microBatch, batch] of batches.entries()) {
      if (batch.countedTokens > 0) {
        const draw: DropoutDraw = { seed: train.seed, step: step + 1, microBatch };
        const result = await this.microBatch(batch, draw, 1 / counted);
        loss += result.loss;
        gradients = accumulate(gradients, result.gradients);
      }
      await this.hooks.onProgress?.('training', step + (microBatch + 1) / batches.length, this.plan.steps);
    }

    const learningRate = learningRateAt(planSchedule(train, this.plan.steps), step);
    const gradNorm = await this.update(gradients!, learningRate, step + 1);
    const tokens = batches.reduce((sum, batch) => sum + batch.tokens, 0);
    const entry: StepLog = {
      epoch: place.epochsAfter, grad_norm: gradNorm, learning_rate: learningRate, loss: loss / counted,
      num_input_tokens_seen: this.history.num_input_tokens_seen + tokens, step: step + 1,
    };
    logStep(this.history, entry, 6 * tokens * (model.parameters - model.config.vocabSize * model.config.hiddenSize));
    await this.hooks.onStep?.(entry, this.plan.steps);
    return place;
  }

  /** @returns the summed loss; the gradients are those of loss × weight */
  private async microBatch(batch: PackedBatch, draw: DropoutDraw, weight: number): Promise<{ loss: number; gradients: Tensor[] }> {
    const llama = { model: this.job.model, adapter: this.adapter, draw };
    const { loss, gradients } = lossAndGradients(llama, batch, { weight, recompute: this.job.train.checkpointing });
    const [value] = await loss.data();
    loss.dispose();
    if (Number.isFinite(value)) return { loss: value, gradients };
    dispose(gradients);
    throw lossError(llama, batch, this.parameters, draw.step);
  }

  private async update(gradients: Tensor[], learningRate: number, step: number): Promise<number> {
    const { beta1, beta2, epsilon, weightDecay, maxGradNorm } = this.job.train;
    const { gradNorm } = adamW(this.parameters.map(({ variable }) => variable), gradients, this.optimizer, { learningRate, beta1, beta2, epsilon, weightDecay, maxGradNorm });
    const [norm] = await gradNorm.data();
    gradNorm.dispose();
    const error = Number.isFinite(norm) ? undefined : gradientError(this.parameters, gradients, step);
    dispose(gradients);
    if (error) throw error;
    return norm;
  }

  private orderOf(epoch: number): number[] {
    const { train, trainRows, order } = this.job;
    if (this.order.epoch !== epoch) {
      const batchSize = train.batchSize * train.accumulation;
      const rows = order?.(epoch) ?? epochOrder(trainRows, { seed: train.seed, epoch, batchSize, groupByLength: train.groupByLength });
      this.order = { epoch, rows };
    }
    return this.order.rows;
  }

  private async evaluate(step: number, epoch: number): Promise<void> {
    const { model, testRows } = this.job;
    const { loss, tokens } = await evaluateLoss({ model, adapter: this.adapter }, testRows, {
      onBatch: (done, total) => this.hooks.onProgress?.('evaluating', done, total),
    });
    logEval(this.history, { epoch, eval_loss: loss, eval_tokens: tokens, step });
    if (this.job.train.keep === 'best' && this.history.best_global_step === step) this.best = await this.adapter.values();
    await this.hooks.onEval?.({ step, epoch, loss, tokens });
  }

  private async state(): Promise<TrainingState> {
    const [m, v] = await Promise.all([this.optimizer.m.data(), this.optimizer.v.data()]);
    return { adapter: await this.adapter.values(), best: this.best, m: m as Float32Array, v: v as Float32Array, history: this.history };
  }
}

/** Sums gradients in the order of the micro-batches; both operands are disposed. */
function accumulate(sum: Tensor[] | undefined, gradients: Tensor[]): Tensor[] {
  if (!sum) return gradients;
  const total = sum.map((tensor, i) => add(tensor, gradients[i]));
  dispose([sum, gradients]);
  return total;
}
