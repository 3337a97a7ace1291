/** The learning rate over the steps, equal to transformers' schedules of these names; `cosine` with a minimum is its `cosine_with_min_lr`. */
export type ScheduleName = 'linear' | 'cosine' | 'constant' | 'inverse_sqrt' | 'warmup_stable_decay';

export interface Schedule {
  name: ScheduleName;
  /** Peak. */
  learningRate: number;
  /** Steps over which the rate rises linearly from 0; the first of them has rate 0. */
  warmupSteps: number;
  /** All steps; a rate that falls to its end would reach it one step after the last. */
  steps: number;
  /** What the rate falls to, as a share of the peak. For `cosine`, and for `warmup_stable_decay`, whose warm-up also begins there. @default 0 */
  minimum?: number;
  /** Steps over which the rate falls in the end. For `warmup_stable_decay`. @default 0 */
  decaySteps?: number;
}

/** Steps for a share of the steps, rounded up as transformers does. */
export const stepsOf = (steps: number, ratio: number): number => Math.ceil(steps * ratio);

/** The settings of a schedule in the configuration; ratios are shares of the steps. */
export interface ScheduleSettings {
  schedule: ScheduleName;
  learningRate: number;
  warmupRatio: number;
  minLearningRateRatio?: number;
  decayRatio?: number;
}

/** As the configuration documents it. */
const DECAY_RATIO = 0.2;

export const planSchedule = ({ schedule, learningRate, warmupRatio, minLearningRateRatio, decayRatio = DECAY_RATIO }: ScheduleSettings, steps: number): Schedule => ({
  name: schedule, learningRate, steps, warmupSteps: stepsOf(steps, warmupRatio), minimum: minLearningRateRatio, decaySteps: stepsOf(steps, decayRatio),
});

/** Where `inverse_sqrt` has its peak when there is no warm-up to end there. */
const TIMESCALE = 10_000;

/** After the warm-up: the share of the peak, between the minimum (0) and the peak (1). */
const courses: Record<ScheduleName, (step: number, schedule: Required<Schedule>) => number> = {
  constant: () => 1,
  linear: (step, { steps, warmupSteps }) => Math.max(0, (steps - step) / Math.max(1, steps - warmupSteps)),
  cosine: (step, { steps, warmupSteps }) => halfCosine((step - warmupSteps) / Math.max(1, steps - warmupSteps)),
  inverse_sqrt: (step, { warmupSteps }) => {
    const timescale = warmupSteps || TIMESCALE;
    return 1 / Math.sqrt((step + timescale - warmupSteps) / timescale);
  },
  warmup_stable_decay: (step, { steps, decaySteps }) => (step < steps - decaySteps ? 1 : halfCosine((step - (steps - decaySteps)) / Math.max(1, decaySteps))),
};

const halfCosine = (progress: number): number => Math.max(0, 0.5 * (1 + Math.cos(Math.PI * progress)));

/** The rate of a step, from 0. */
export function learningRateAt(schedule: Schedule, step: number): number {
  const { name, learningRate, warmupSteps, minimum = 0, decaySteps = 0 } = schedule;
  const above = (share: number): number => learningRate * (minimum + (1 - minimum) * share);
  if (step >= warmupSteps) return above(courses[name](step, { ...schedule, minimum, decaySteps }));
  const rise = step / Math.max(1, warmupSteps);
  return name === 'warmup_stable_decay' ? above(rise) : learningRate * rise;
}
