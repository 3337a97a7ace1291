import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { planTraining, placeOf } from '../../engine/train/plan.js';
import { learningRateAt, stepsOf, type Schedule } from '../../engine/train/schedule.js';
import { goldenPath } from '../kit/golden.js';

const cases = JSON.parse(await readFile(goldenPath('schedule.json'), 'utf8')) as (Omit<Schedule, 'learningRate'> & { rates: number[] })[];

describe('learningRateAt', () => {
  it.each(cases)('equals transformers: $name, $warmupSteps warm-up steps of $steps, $decaySteps to the minimum of $minimum', ({ rates, ...schedule }) => {
    rates.forEach((rate, step) => expect(learningRateAt({ ...schedule, learningRate: 1 }, step)).toBeCloseTo(rate, 12));
  });

  it('rounds a share of the steps up to whole steps', () => {
    expect([stepsOf(40, 0.03), stepsOf(100, 0.03), stepsOf(10, 0)]).toEqual([2, 3, 0]);
  });
});

describe('planTraining', () => {
  const options = { rows: 26, batchSize: 2, accumulation: 3 };

  it('counts a partial accumulation at the end of an epoch as a step', () => {
    expect(planTraining({ ...options, epochs: 1 })).toEqual({ batchesPerEpoch: 13, stepsPerEpoch: 5, steps: 5, epochs: 1 });
  });

  it('rounds a fraction of an epoch up to whole steps', () => {
    expect(planTraining({ ...options, epochs: 1.5 })).toMatchObject({ steps: 8, epochs: 2 });
  });

  it('takes steps over as many epochs as they need', () => {
    expect(planTraining({ ...options, steps: 11 })).toMatchObject({ steps: 11, epochs: 3 });
  });

  it('refuses a training without rows', () => {
    expect(() => planTraining({ ...options, rows: 0 })).toThrow('train: expected at least one row, got none');
  });
});

describe('placeOf', () => {
  it('visits every row of an epoch once, and no step spans two epochs', () => {
    const options = { rows: 27, batchSize: 2, accumulation: 3, epochs: 2 };
    const plan = planTraining(options);
    const places = Array.from({ length: plan.steps }, (_, step) => placeOf(step, options, plan));
    for (const epoch of [0, 1]) {
      const rows = places.filter((place) => place.epoch === epoch).flatMap(({ microBatches }) => microBatches.flatMap(({ from, to }) => Array.from({ length: to - from }, (_, i) => from + i)));
      expect(rows).toEqual(Array.from({ length: 27 }, (_, row) => row));
    }
    expect(places.map(({ endsEpoch }) => endsEpoch)).toEqual([false, false, false, false, true, false, false, false, false, true]);
    expect(places[4]).toMatchObject({ microBatches: [{ from: 24, to: 26 }, { from: 26, to: 27 }], epochsAfter: 1 });
    expect(places[5].epochsAfter).toBeCloseTo(1 + 3 / 14, 12);
  });
});
