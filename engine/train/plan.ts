import { EngineError } from '../errors.js';

/** What decides how many steps there are and which rows each takes. */
export interface PlanOptions {
  rows: number;
  /** Rows a micro-batch. */
  batchSize: number;
  /** Micro-batches an optimizer step. */
  accumulation: number;
  /** Passes over the rows, may be a fraction; excludes `steps`. @default 1 */
  epochs?: number;
  steps?: number;
}

/**
 * The course of a training, counted as transformers' Trainer counts it: an epoch's last micro-batch may hold fewer rows, and its
 * last step fewer micro-batches; no step spans two epochs.
 */
export interface Plan {
  batchesPerEpoch: number;
  stepsPerEpoch: number;
  steps: number;
  /** Whole epochs begun. */
  epochs: number;
}

export function planTraining({ rows, batchSize, accumulation, epochs = 1, steps }: PlanOptions): Plan {
  if (rows === 0) throw new EngineError('invalidInput', 'no_rows', 'train: expected at least one row, got none');
  const batchesPerEpoch = Math.ceil(rows / batchSize);
  const stepsPerEpoch = Math.ceil(batchesPerEpoch / accumulation);
  const total = steps ?? Math.ceil(epochs * stepsPerEpoch);
  return { batchesPerEpoch, stepsPerEpoch, steps: total, epochs: Math.ceil(total / stepsPerEpoch) };
}

/** Where a step's rows are. */
export interface StepPlace {
  /** From 0. */
  epoch: number;
  /** Micro-batches of the step, as places in the epoch's order. */
  microBatches: { from: number; to: number }[];
  /** Epochs done when the step is, e.g. 1.5. */
  epochsAfter: number;
  /** The step is its epoch's last. */
  endsEpoch: boolean;
}

/** The place of a step, from 0: a pure function, so that a data cursor is just the step. */
export function placeOf(step: number, { rows, batchSize, accumulation }: PlanOptions, { batchesPerEpoch, stepsPerEpoch }: Plan): StepPlace {
  const epoch = Math.floor(step / stepsPerEpoch);
  const first = (step % stepsPerEpoch) * accumulation;
  const last = Math.min(first + accumulation, batchesPerEpoch);
  const microBatches = Array.from({ length: last - first }, (_, i) => ({
    from: (first + i) * batchSize,
    to: Math.min((first + i + 1) * batchSize, rows),
  }));
  return { epoch, microBatches, epochsAfter: epoch + last / batchesPerEpoch, endsEpoch: last === batchesPerEpoch };
}

/** Joins so many micro-batches that follow one another; the last may be fewer. */
export function mergePasses(microBatches: StepPlace['microBatches'], count: number): StepPlace['microBatches'] {
  return microBatches.flatMap(({ from }, i) => (i % count === 0 ? [{ from, to: microBatches[Math.min(i + count, microBatches.length) - 1].to }] : []));
}
