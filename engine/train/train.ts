import { dispose, tensor1d, tidy, type Scalar } from '@tensorflow/tfjs-core';
import type { LoraConfig, TrainConfig } from '../../contracts/fine-tune-config.js';
import { epochOrder, type PackedBatch, type TokenRows } from '../data/batches.js';
import { EngineError } from '../errors.js';
import { LoraAdapter, type DropoutDraw, type ParameterValues } from '../model/adapter.js';
import type { LlamaModel } from '../model/load.js';
import { withTrainedParts } from '../model/trained-parts.js';
import { adamW, createAdamW, disposeAdamW, type AdamWState } from '../tensor/adam-w.js';
import { readScalars, replayer } from '../tensor/replay.js';
import { parametersDigest, trainingDigest, type TrainingState } from './checkpoint.js';
import { evaluateLoss, largestEvaluation, longestOf } from './evaluate.js';
import { evaluationsWithoutGain, logEval, logStep, newTrainerState, type StepLog, type TrainerState } from './history.js';
import { planPasses, surveyPasses } from './memory-plan.js';
import { gradientError, lossError } from './non-finite.js';
import { parameterGroups } from './parameter-groups.js';
import { GradientPasses, layOut, LossPasses, type UploadedBatch } from './passes.js';
import { mergePasses, placeOf, planTraining, type Plan, type PlanOptions, type StepPlace } from './plan.js';
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
  /** How memory will be used, in words, on a backend that plans it; again when that had to be changed. */
  onPlan?(description: string): void;
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
export function digestOf({ model, lora, train, trainRows, initial }: Pick<TrainJob, 'model' | 'lora' | 'train' | 'trainRows' | 'initial'>): string {
  const course = Object.fromEntries(Object.entries(train).filter(([name]) => !besideTheCourse.has(name)));
  return trainingDigest([
    model.config, model.base, lora, { rowsPerStep: train.batchSize * train.accumulation, rows: trainRows.count },
    course, ...(initial ? [parametersDigest(initial)] : []),
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
    training.dispose();
  }
}

/** An optimizer step whose passes are queued on the device. */
interface QueuedStep {
  step: number;
  place: StepPlace;
  /** Those in which the loss counts nothing are left out. */
  batches: { draw: DropoutDraw; uploaded: UploadedBatch }[];
  /** Of the batches, summed, on the device. */
  losses: Scalar[];
  /** Tokens, and those that the loss counts. */
  tokens: number;
  counted: number;
}

class Training {
  readonly adapter: LoraAdapter;
  readonly optimizer: AdamWState;
  private readonly history: TrainerState;
  private readonly plan: Plan;
  private readonly planOptions: PlanOptions;
  private readonly parameters;
  private readonly groups;
  private readonly passes: GradientPasses;
  /** Of the evaluations. */
  private readonly losses: LossPasses;
  /** A multiple of `train.batchSize`: micro-batches that are computed together. */
  private rowsPerPass: number;
  /** The next step, queued while the device is busy with the one before; or why it could not be. */
  private ahead?: { step: number; queued?: QueuedStep; error?: unknown };
  /** The adapter of the best evaluation so far, where that one is kept. */
  private best?: ReadonlyMap<string, ParameterValues>;
  /** The order of the epoch that is being trained. */
  private order: { epoch: number; rows: number[] } = { epoch: -1, rows: [] };

  constructor(
    private readonly job: TrainJob,
    private readonly hooks: TrainHooks,
  ) {
    const { model, lora, train, trainRows, testRows, resume, initial } = job;
    this.planOptions = { rows: trainRows.count, batchSize: train.batchSize, accumulation: train.accumulation, epochs: train.epochs, steps: train.steps };
    this.plan = planTraining(this.planOptions);
    const values = resume?.adapter ?? initial;
    this.adapter = values ? LoraAdapter.fromTensors(model.config, lora, values) : LoraAdapter.create(model.config, lora, train.seed, model);
    this.parameters = this.adapter.parameters();
    this.groups = parameterGroups(this.parameters, lora.loraPlusRatio);
    this.best = resume?.best;
    this.history = resume?.history ?? newTrainerState({ plan: this.plan, ...train });
    this.optimizer = createAdamW(this.parameters.map(({ variable }) => variable));
    this.passes = new GradientPasses(model, this.adapter, longestOf(trainRows), train.neftuneNoiseAlpha);
    this.losses = new LossPasses({ model, adapter: this.adapter }, longestOf(testRows));
    this.rowsPerPass = train.batchSize;
    this.passes.recompute = train.checkpointing;
    if (resume) {
      this.optimizer.step = resume.history.global_step;
      for (const moment of ['m', 'v'] as const) tidy(() => this.optimizer[moment].assign(tensor1d(resume[moment])));
    }
  }

  async run(): Promise<TrainOutcome> {
    const { train } = this.job;
    this.hooks.onStart?.(this.adapter);
    this.planMemory();
    for (let step = this.history.global_step; step < this.plan.steps && !this.isExhausted(); step++) {
      const place = await this.stepWithinMemory(step);
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

  private planMemory(): void {
    const backend = replayer();
    if (!backend) return;
    const { model, train, trainRows, testRows, resume } = this.job;
    // Micro-batches of another size mean that memory was short.
    const settled = resume?.passes && (resume.passes.batchSize === train.batchSize ? resume.passes.rows : train.batchSize);
    const { rows, description } = planPasses(backend, {
      model, train, trainable: this.adapter.size, passes: this.passes, losses: this.losses, evaluation: largestEvaluation(testRows), rows: settled,
      survey: (rows) => surveyPasses(trainRows, (epoch) => this.rowsOf(epoch), this.planOptions, this.plan, rows),
    });
    this.rowsPerPass = rows;
    this.hooks.onPlan?.(description);
  }

  /** A step; when memory runs out, micro-batches are no longer computed together. */
  private async stepWithinMemory(step: number): Promise<StepPlace> {
    const { batchSize } = this.job.train;
    try {
      return await this.step(step);
    } catch (err) {
      if (!(err instanceof EngineError && err.failure === 'outOfMemory') || this.rowsPerPass === batchSize) throw err;
      this.rowsPerPass = batchSize;
      replayer()?.clear();
      this.hooks.onPlan?.(`${err.message}; from step ${step + 1} on each micro-batch is computed alone`);
      return this.step(step);
    }
  }

  private async step(step: number): Promise<StepPlace> {
    const { train } = this.job;
    const queued = this.takeQueued(step);
    const { place, batches, losses, tokens, counted } = queued;
    for (const i of batches.keys()) await this.hooks.onProgress?.('training', step + (i + 1) / batches.length, this.plan.steps);
    const learningRate = learningRateAt(planSchedule(train, this.plan.steps), step);
    const { gradNorm: norm } = adamW(this.parameters.map(({ variable }) => variable), this.passes.sums, this.optimizer, { ...train, learningRate, groups: this.groups });
    const read = readScalars([...losses, norm]);
    if (replayer() && step + 1 < this.plan.steps) this.ahead = this.queueAhead(step + 1);

    // Only here the host waits for the device, which goes on with the next step.
    const values = await read();
    const gradNorm = values.pop()!;
    dispose([losses, norm]);
    const bad = values.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0 || !Number.isFinite(gradNorm)) throw this.notFinite(queued, bad);

    const entry: StepLog = {
      epoch: place.epochsAfter, grad_norm: gradNorm, learning_rate: learningRate, loss: values.reduce((sum, value) => sum + value, 0) / counted,
      num_input_tokens_seen: this.history.num_input_tokens_seen + tokens, step: step + 1,
    };
    const { parameters, config } = this.job.model;
    logStep(this.history, entry, 6 * tokens * (parameters - config.vocabSize * config.hiddenSize));
    await this.hooks.onStep?.(entry, this.plan.steps);
    return place;
  }

  /** The error for a step of which a batch's loss, or the gradient norm (`bad` -1), is not finite: it changed no parameter. */
  private notFinite({ step, batches }: QueuedStep, bad: number): EngineError {
    const { model } = this.job;
    if (bad >= 0) {
      const { draw, uploaded } = batches[bad];
      return lossError({ model: withTrainedParts(model, this.adapter), adapter: this.adapter, draw }, uploaded.batch, this.parameters, step + 1);
    }
    // The next step's gradients may have taken the place of this one's.
    if (this.ahead) dispose(this.queue(step).losses);
    return gradientError(this.parameters, this.passes.sums, step + 1);
  }

  /** Lays out a step's batches and queues their passes. */
  private queue(step: number): QueuedStep {
    const { train, trainRows } = this.job;
    const place = placeOf(step, this.planOptions, this.plan);
    const order = this.orderOf(place.epoch);
    const laidOut = mergePasses(place.microBatches, this.rowsPerPass / train.batchSize).map(({ from, to }) => layOut(trainRows, order.slice(from, to)));
    const sumOf = (count: (batch: PackedBatch) => number): number => laidOut.reduce((sum, batch) => sum + count(batch), 0);
    const counted = sumOf(({ countedTokens }) => countedTokens);
    if (counted === 0) throw new EngineError('invalidInput', 'no_counted_tokens', `step ${step + 1}: expected at least one token that the loss counts, got none`);
    const batches = laidOut.flatMap((batch, microBatch) =>
      batch.countedTokens > 0 ? [{ draw: { seed: train.seed, step: step + 1, microBatch }, uploaded: this.passes.upload(batch, 1 / counted) }] : []);
    const losses: Scalar[] = [];
    try {
      batches.forEach(({ draw, uploaded }, i) => losses.push(this.passes.run(uploaded, draw, i === 0)));
    } catch (err) {
      dispose([losses, batches.slice(losses.length + 1).map(({ uploaded }) => uploaded.inputs)]);
      throw err;
    }
    return { step, place, batches, losses, counted, tokens: sumOf(({ tokens }) => tokens) };
  }

  private queueAhead(step: number): NonNullable<Training['ahead']> {
    try {
      return { step, queued: this.queue(step) };
    } catch (error) {
      return { step, error };
    }
  }

  private takeQueued(step: number): QueuedStep {
    const { ahead } = this;
    this.ahead = undefined;
    if (ahead?.error) throw ahead.error;
    return ahead?.queued ?? this.queue(step);
  }

  /** The rows of an epoch, in its order. */
  private rowsOf(epoch: number): number[] {
    const { train, trainRows, order } = this.job;
    const batchSize = train.batchSize * train.accumulation;
    return order?.(epoch) ?? epochOrder(trainRows, { seed: train.seed, epoch, batchSize, groupByLength: train.groupByLength });
  }

  private orderOf(epoch: number): number[] {
    if (this.order.epoch !== epoch) this.order = { epoch, rows: this.rowsOf(epoch) };
    return this.order.rows;
  }

  private async evaluate(step: number, epoch: number): Promise<void> {
    const { model, testRows } = this.job;
    const { loss, tokens } = await evaluateLoss({ model, adapter: this.adapter }, testRows, {
      passes: this.losses,
      onBatch: (done, total) => this.hooks.onProgress?.('evaluating', done, total),
    });
    logEval(this.history, { epoch, eval_loss: loss, eval_tokens: tokens, step });
    if (this.job.train.keep === 'best' && this.history.best_global_step === step) this.best = await this.adapter.values();
    await this.hooks.onEval?.({ step, epoch, loss, tokens });
  }

  private async state(): Promise<TrainingState> {
    const [m, v] = await Promise.all([this.optimizer.m.data(), this.optimizer.v.data()]);
    return { adapter: await this.adapter.values(), best: this.best, m: m as Float32Array, v: v as Float32Array, history: this.history, passes: replayer() && { batchSize: this.job.train.batchSize, rows: this.rowsPerPass } };
  }

  dispose(): void {
    dispose(this.ahead?.queued?.losses ?? []);
    replayer()?.clear();
    this.passes.dispose();
    this.losses.dispose();
    disposeAdamW(this.optimizer);
  }
}
