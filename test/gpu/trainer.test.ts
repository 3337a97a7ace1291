import { it } from 'vitest';
import { trainerCases } from './cases/trainer.js';
import { describeGpu } from './device.js';

describeGpu('the trainer on cuda', () => {
  it.each(trainerCases)('$name', ({ check }) => check());
});
