import type { Problem } from './pipeline.js';

/** Wrong input from the user: never retried. Carries every problem found, not only the first. */
export class InvalidInputError extends Error {
  readonly code = 'invalid_input';
  constructor(readonly problems: readonly Problem[]) {
    super(problems.map(({ path, message }) => `${path}: ${message}`).join('\n'));
    this.name = 'InvalidInputError';
  }
}
