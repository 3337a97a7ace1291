import { describe } from 'vitest';
import { registerCudaBackend } from '../../engine/cuda/register.js';
import { selectBackend } from '../../engine/tensor/backends.js';

registerCudaBackend();
const reason = await selectBackend('cuda').then(() => undefined, (error: unknown) => (error instanceof Error ? error.message : String(error)));

/** Tests on a GPU; shown as skipped, with the reason, where there is none. */
export function describeGpu(name: string, tests: () => void): void {
  if (reason === undefined) describe(name, tests);
  else describe.skip(`${name} (${reason})`, tests);
}
