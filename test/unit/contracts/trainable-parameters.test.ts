import { expect, it } from 'vitest';
import { describeTrainable } from '../../../contracts/trainable-parameters.js';

it('words the trainable parameters as PEFT does', () =>
  expect(describeTrainable(2_662_400, 3_429_136_000)).toBe('trainable params: 2,662,400 || all params: 3,429,136,000 || trainable%: 0.0776'));
