/** What the exit code of `temper` says. */
export const exitCodes = {
  ok: 0,
  /** The run ended without a result, or a check of `doctor` failed. */
  failed: 1,
  /** Wrong usage, or a configuration with problems. */
  badInput: 2,
  /** No Temporal server answers, or it has no such run. */
  unreachable: 3,
  /** Ctrl-C; 128 + SIGINT. */
  interrupted: 130,
} as const;
