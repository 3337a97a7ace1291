import type { exitCodes } from './exit-codes.js';

/** Ends the command with a message for people and an exit code. */
export class CliError extends Error {
  constructor(
    readonly code: keyof typeof exitCodes,
    message: string,
  ) {
    super(message);
    this.name = 'CliError';
  }
}
