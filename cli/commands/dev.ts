import type { Console } from '../console.js';
import { startDevStack } from '../dev-stack.js';

export interface DevOptions {
  port?: number;
  uiPort?: number;
}

/** Runs server, UI and workers until Ctrl-C. @throws when one of them keeps failing, or when a stack of this folder runs already */
export async function dev(options: DevOptions, console: Console, signal: AbortSignal): Promise<void> {
  const stack = await startDevStack({ ...options, onLine: console.err, signal });
  try {
    if (console.json) {
      console.out(JSON.stringify({ address: stack.address, uiUrl: stack.uiUrl }));
    } else {
      console.out(`Temporal server  ${stack.address}`);
      console.out(`Temporal UI      ${stack.uiUrl}`);
      console.out(`Logs             .temper/logs`);
      console.out('Server and workers are running; Ctrl-C stops them, and runs go on at the next start.');
    }
    const failure = await Promise.race([stack.failed, interrupted(signal)]);
    if (failure) throw failure;
  } finally {
    await stack.stop();
  }
}

const interrupted = (signal: AbortSignal): Promise<undefined> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve(undefined);
    signal.addEventListener('abort', () => resolve(undefined), { once: true });
  });
