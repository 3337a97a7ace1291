/** The learning rate over the steps, equal to transformers' get_{linear,cosine,constant}_schedule_with_warmup. */
export type ScheduleName = 'linear' | 'cosine' | 'constant';

export interface Schedule {
  name: ScheduleName;
  /** Peak. */
  learningRate: number;
  /** Steps over which the rate rises linearly from 0; the first of them has rate 0. */
  warmupSteps: number;
  /** All steps; the rate would reach 0 one step after the last. */
  steps: number;
}

/** Warm-up steps for a share of the steps, rounded up as transformers does. */
export const warmupSteps = (steps: number, ratio: number): number => Math.ceil(steps * ratio);

/** The rate of a step, from 0. */
export function learningRateAt({ name, learningRate, warmupSteps, steps }: Schedule, step: number): number {
  if (step < warmupSteps) return (learningRate * step) / Math.max(1, warmupSteps);
  const rest = Math.max(1, steps - warmupSteps);
  switch (name) {
    case 'constant':
      return learningRate;
    case 'linear':
      return learningRate * Math.max(0, (steps - step) / rest);
    case 'cosine':
      return learningRate * Math.max(0, 0.5 * (1 + Math.cos((Math.PI * (step - warmupSteps)) / rest)));
  }
}
