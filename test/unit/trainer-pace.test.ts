import { expect, it } from 'vitest';
import { createPace } from '../../workers/trainer-pace.js';

it('counts the steps alone, from where a resumed training began', () => {
  let time = 0;
  const pace = createPace(1000, () => time);
  time = 2000;
  expect(pace.step(1400, 5)).toEqual({ tokensPerSecond: 200, etaSeconds: 10 });
  time = 60_000; // an evaluation
  pace.resume();
  time = 61_000;
  expect(pace.step(1600, 4)).toEqual({ tokensPerSecond: 200, etaSeconds: 6 });
});

it('forgets steps that are more than ten back', () => {
  let time = 0;
  const pace = createPace(0, () => time);
  time = 100_000;
  pace.step(1, 100);
  let last = { tokensPerSecond: 0, etaSeconds: 0 };
  for (let step = 1; step <= 10; step++) {
    time += 1000;
    last = pace.step(1 + step * 10, 100);
  }
  expect(last).toEqual({ tokensPerSecond: 10, etaSeconds: 100 });
});
