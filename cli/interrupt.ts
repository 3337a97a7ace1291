import { exitCodes } from './exit-codes.js';

/** A second Ctrl-C this soon is the same one, sent on by npm. */
const sameMs = 1_000;

/**
 * A signal that aborts at the first Ctrl-C (or SIGTERM, SIGHUP), so that a command can tidy up. A second one, later, ends
 * the process at once; exit handlers then kill what is left.
 */
export function interruptSignal(): AbortSignal {
  const controller = new AbortController();
  let first: number | undefined;
  const onSignal = (): void => {
    if (first !== undefined && performance.now() - first > sameMs) process.exit(exitCodes.interrupted);
    first ??= performance.now();
    controller.abort();
  };
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, onSignal);
  return controller.signal;
}
